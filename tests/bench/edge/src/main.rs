//! Measures Tidegate beside what people run today, on this machine, in one run.
//!
//! Mosquitto gets the same certificates and mutual TLS, and neither stores nor checks anything.
//! Tidegate verifies each message in full and commits it with `synchronous=FULL` before it
//! acknowledges it. Where messages go on to a backend, the peer is the stack of mosquitto and a
//! Python script in `tests/bench/seed_stack`. Rounds are interleaved, so that what else the machine
//! does meets both; figures are medians.

mod backend;
mod disk;
mod fleet;
mod load;
mod mosquitto;
mod place;
mod process;
mod results;
mod rows;
mod seed_stack;
mod tidegate;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;

use place::Place;
use results::Results;
use rows::{Bench, ROWS};

/// What everything here returns: the text says what is wrong.
type Fallible<T> = Result<T, Box<dyn Error>>;

/// Tidegate beside mosquitto, and beside mosquitto with a Python script
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure this row only (repeatable); --list names them
    #[arg(long = "only", value_name = "ROW")]
    only: Vec<String>,
    /// Name the rows and end
    #[arg(long)]
    list: bool,
    /// One short round of each, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds, of which the medians are taken
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Bytes of a published message: the signed envelope
    #[arg(long, default_value_t = 350)]
    message_bytes: usize,
    /// Write the figures as JSON here [default: target/bench/edge.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this program instead of building one
    #[arg(long, value_name = "FILE")]
    tidegate: Option<PathBuf>,
    /// Generate load with this program instead of building one
    #[arg(long, value_name = "FILE")]
    generator: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for row in ROWS {
            println!("{:<12} {}", row.name, row.what);
        }
        return ExitCode::SUCCESS;
    }
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Fallible<()> {
    if let Some(unknown) = arguments
        .only
        .iter()
        .find(|name| ROWS.iter().all(|row| row.name != **name))
    {
        return Err(format!("there is no row {unknown:?}; --list names them").into());
    }
    let place = Place::prepare(
        arguments.tidegate.as_deref(),
        arguments.generator.as_deref(),
    )?;
    let mut bench = Bench {
        place,
        quick: arguments.quick,
        rounds: if arguments.quick {
            1
        } else {
            arguments.rounds.max(1)
        },
        payload: fleet::payload_for(arguments.message_bytes)?,
        results: Results::default(),
    };
    for row in ROWS {
        if !arguments.only.is_empty() && arguments.only.iter().all(|name| name != row.name) {
            continue;
        }
        eprintln!("--- {}: {}", row.name, row.what);
        let began = Instant::now();
        // What one row cannot measure is no reason to lose the others, but it is said and it counts.
        if let Err(error) = (row.run)(&mut bench) {
            eprintln!("    failed: {error}");
            bench.results.failed(row.name, &error.to_string());
        }
        eprintln!("    took {:.0} s", began.elapsed().as_secs_f64());
    }
    let path = match &arguments.json {
        Some(path) => path.clone(),
        None => bench.place.work.join("edge.json"),
    };
    std::fs::write(&path, serde_json::to_vec_pretty(&bench.results.json())?)?;
    print!("{}", bench.results.table());
    println!("\nAs JSON: {}", path.display());
    match bench.results.failures() {
        0 => Ok(()),
        failures => Err(format!("{failures} rows could not be measured").into()),
    }
}
