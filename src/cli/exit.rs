//! How the program ends, for scripts and service managers. Numbers above 2 are those of sysexits(3).

use std::process::ExitCode;

use crate::control::Code;

/// The exit status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Not done; the message says why.
    Failure = 1,
    /// The command line is not understood.
    Usage = 2,
    /// Stored data is damaged or of another version (`EX_DATAERR`).
    Damaged = 65,
    /// No such device, key, command or file (`EX_NOINPUT`).
    NotFound = 66,
    /// The gateway does not run (`EX_UNAVAILABLE`).
    NotRunning = 69,
    /// A fault of the program (`EX_SOFTWARE`).
    Internal = 70,
    /// A file or socket could not be read or written (`EX_IOERR`).
    Io = 74,
    /// Another tidegate uses the state folder or the port, or the gateway is too busy; try again
    /// (`EX_TEMPFAIL`).
    InUse = 75,
    /// Not for this user (`EX_NOPERM`).
    Denied = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Code> for Exit {
    fn from(code: Code) -> Self {
        match code {
            Code::Invalid | Code::Conflict => Self::Failure,
            Code::NotFound => Self::NotFound,
            Code::Denied => Self::Denied,
            Code::NotRunning => Self::NotRunning,
            Code::InUse | Code::Unavailable => Self::InUse,
            Code::Damaged | Code::Version => Self::Damaged,
            Code::Config => Self::Config,
            Code::Io => Self::Io,
            Code::Internal => Self::Internal,
        }
    }
}

/// The table for `--help`.
pub(super) const HELP: &str = "Exit status:
   0  done
   1  not done; the message says why
   2  the command line is not understood
  65  stored data is damaged or of another version
  66  no such device, key, command or file
  69  the gateway does not run
  70  a fault of the program
  74  a file or socket could not be read or written
  75  the state folder or port is in use, or the gateway is busy: try again
  77  not for this user
  78  the configuration is wrong";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_status() {
        for exit in [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::Damaged,
            Exit::NotFound,
            Exit::NotRunning,
            Exit::Internal,
            Exit::Io,
            Exit::InUse,
            Exit::Denied,
            Exit::Config,
        ] {
            let number = format!("\n  {:>2}  ", exit as u8);
            assert!(HELP.contains(&number), "{exit:?}");
        }
    }
}
