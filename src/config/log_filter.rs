//! The log filter's text.

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// The filter that `text` says.
///
/// - Blanks around its directives mean nothing. The parser passes over them and then cuts as if they
///   were not there: `info, debug` would set a module named ` debug`, and with letters of several bytes
///   it panics.
/// - Values of fields are compared as they are. As regular expressions, a few letters would be
///   gigabytes of automaton.
///
/// # Errors
/// It is no filter.
pub(crate) fn log_filter(text: &str) -> Result<EnvFilter, ParseError> {
    let directives: Vec<&str> = text.split(',').map(str::trim).collect();
    EnvFilter::builder()
        .with_regex(false)
        .parse(directives.join(","))
}

#[cfg(test)]
mod tests {
    use super::log_filter;

    #[test]
    fn blanks_around_directives_mean_nothing() {
        for (text, meant) in [
            (" debug ", "debug"),
            ("info,\t debug", "info,debug"),
            ("warn, tidegate::front=debug", "tidegate::front=debug,warn"),
            ("warn,\u{a0}\u{e9}=debug", "\u{e9}=debug,warn"),
        ] {
            let said = log_filter(text).expect("a filter").to_string();
            let meant = log_filter(meant).expect("a filter").to_string();
            assert_eq!(said, meant, "{text:?}");
            assert!(!said.contains(' '), "{said:?}");
        }
    }

    #[test]
    fn a_fields_value_is_no_regular_expression() {
        // As one it is an automaton of 2 to the 30th states.
        let value = format!("(a|b)*a{}", "(a|b)".repeat(30));
        let filter = log_filter(&format!("[{{device={value}}}]=debug")).expect("a filter");
        assert!(filter.to_string().contains(&value), "{filter}");
    }
}
