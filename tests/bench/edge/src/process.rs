//! A server's process, and what Linux accounts it with.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::Fallible;

/// What /proc counts processor time in: USER_HZ, which is 100 on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process used until a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) at: Instant,
    /// Seconds of processor time, of all its threads, user and system.
    pub(crate) cpu: f64,
    /// Bytes resident.
    pub(crate) rss: f64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Fallible<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name may hold anything, so count from behind it: utime and stime are fields 14 and 15.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: f64 = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
            .ok_or("no VmRSS in /proc")?;
        Ok(Self {
            at: Instant::now(),
            cpu: ticks / TICKS_PER_SECOND,
            rss: kib * 1024.0,
        })
    }
}

/// A child that is killed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts it; what it prints goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Fallible<Self> {
        let file = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn usage(&self) -> Fallible<Usage> {
        Usage::of(self.pid())
    }

    /// Whether it still runs; an error says what it said last.
    pub(crate) fn alive(&mut self, log: &Path) -> Fallible<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let text = fs::read_to_string(log).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(5).collect();
                Err(format!("ended with {status}: {}", last.join(" | ")).into())
            }
        }
    }

    /// SIGTERM, and the end.
    pub(crate) fn stop(mut self) -> Fallible<()> {
        let pid = self.pid().to_string();
        crate::place::run(Command::new("kill").args(["-TERM", &pid]))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(format!("process {pid} does not stop").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process used over time, sampled by a thread.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<Usage>>,
}

const EVERY: Duration = Duration::from_millis(100);

impl Sampler {
    pub(crate) fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                samples.extend(Usage::of(pid));
                thread::sleep(EVERY);
            }
            samples
        });
        Self { stop, thread }
    }

    pub(crate) fn finish(self) -> Series {
        self.stop.store(true, Ordering::Relaxed);
        // A panic there leaves nothing, and whoever asks for what is not there gets an error.
        Series(self.thread.join().unwrap_or_default())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Series(Vec<Usage>);

impl Series {
    fn between(&self, from: Instant, to: Instant) -> impl DoubleEndedIterator<Item = &Usage> {
        self.0
            .iter()
            .filter(move |usage| usage.at >= from && usage.at <= to)
    }

    /// Processors used between two moments.
    pub(crate) fn cpu(&self, from: Instant, to: Instant) -> Fallible<f64> {
        let mut samples = self.between(from, to);
        match (samples.next(), samples.next_back()) {
            (Some(first), Some(last)) => {
                Ok((last.cpu - first.cpu) / (last.at - first.at).as_secs_f64())
            }
            _ => Err("too few samples of processor time: measure for longer".into()),
        }
    }

    /// The median of what was resident between two moments.
    pub(crate) fn rss(&self, from: Instant, to: Instant) -> Fallible<f64> {
        let values: Vec<f64> = self.between(from, to).map(|usage| usage.rss).collect();
        crate::results::median(&values).ok_or_else(|| "no samples of memory".into())
    }

    /// The most that was resident.
    pub(crate) fn peak(&self) -> f64 {
        self.0.iter().map(|usage| usage.rss).fold(0.0, f64::max)
    }
}
