use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn everything_says_what_it_is_for() {
    fn walk(command: &clap::Command, path: &str) {
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            let path = format!("{path} {}", sub.get_name());
            assert!(sub.get_about().is_some(), "{path} has no text");
            for arg in sub.get_arguments().filter(|_| !path.contains(" pki")) {
                assert!(
                    arg.get_help().is_some(),
                    "{path} {} has no text",
                    arg.get_id()
                );
            }
            walk(sub, &path);
        }
    }
    walk(&Cli::command(), "tidegate");
}

#[test]
fn flags_that_hold_everywhere_can_stand_anywhere() {
    for arguments in [
        "tidegate --json --config /c --state-dir /s --set a=1 device list",
        "tidegate device list --json --config /c --state-dir /s --set a=1",
        "tidegate device --json list --config /c --set a=1 --state-dir /s",
    ] {
        let cli = Cli::try_parse_from(arguments.split(' ')).expect(arguments);
        assert!(cli.global.json, "{arguments}");
        assert_eq!(cli.global.config, Some("/c".into()));
        assert_eq!(cli.global.state_dir, Some("/s".into()));
        assert_eq!(cli.global.set, ["a=1"]);
    }
}

#[test]
fn dead_letters_are_never_chosen_by_saying_nothing() {
    for wrong in [
        "outbox drop",
        "outbox retry",
        "outbox drop 5 --all",
        "outbox drop five",
    ] {
        let arguments = format!("tidegate {wrong}");
        assert!(
            Cli::try_parse_from(arguments.split(' ')).is_err(),
            "{wrong}"
        );
    }
    for right in [
        "outbox drop 5",
        "outbox retry --all",
        "outbox drop --device a --upstream b",
    ] {
        let arguments = format!("tidegate {right}");
        assert!(Cli::try_parse_from(arguments.split(' ')).is_ok(), "{right}");
    }
}

#[test]
fn secrets_are_no_arguments() {
    for wrong in [
        "device set-secret a hunter2",
        "device set-secret a",
        "device set-password a",
    ] {
        let arguments = format!("tidegate {wrong}");
        assert!(
            Cli::try_parse_from(arguments.split(' ')).is_err(),
            "{wrong}"
        );
    }
}
