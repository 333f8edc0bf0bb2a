//! Writing the members of a JSON object into a fixed buffer.

use tidegate_wire::output::{Output, TooSmall};

/// The members of an object, one after the other; commas are put where they belong.
#[derive(Debug)]
pub struct Members<'o, 'b> {
    out: &'o mut Output<'b>,
    first: bool,
}

impl<'o, 'b> Members<'o, 'b> {
    /// Writes `{`, the members, `}`.
    ///
    /// # Errors
    ///
    /// [`TooSmall`], or what `members` fails with.
    pub fn object<E: From<TooSmall>>(
        out: &'o mut Output<'b>,
        members: impl FnOnce(&mut Members<'_, 'b>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut object = Self::begin(out)?;
        members(&mut Members {
            out: object.out,
            first: true,
        })?;
        object.end()?;
        Ok(())
    }

    /// Writes `{`; [`end`](Self::end) writes the rest.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    pub fn begin(out: &'o mut Output<'b>) -> Result<Self, TooSmall> {
        out.put(b"{")?;
        Ok(Self { out, first: true })
    }

    /// Writes `}`.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    pub fn end(&mut self) -> Result<(), TooSmall> {
        self.out.put(b"}")
    }

    fn name(&mut self, name: &str) -> Result<(), TooSmall> {
        if !self.first {
            self.out.put(b",")?;
        }
        self.first = false;
        self.out.put_json_string(name)?;
        self.out.put(b":")
    }

    /// An integer.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    pub fn integer(&mut self, name: &str, value: i64) -> Result<(), TooSmall> {
        self.name(name)?;
        self.sign(value < 0)?;
        self.out.put_u64(value.unsigned_abs())
    }

    /// A number given in tenths, written with one decimal: 225 is `22.5`.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    pub fn tenths(&mut self, name: &str, value: i32) -> Result<(), TooSmall> {
        self.name(name)?;
        self.sign(value < 0)?;
        let value = u64::from(value.unsigned_abs());
        self.out.put_u64(value / 10)?;
        self.out.put(b".")?;
        self.out.put_u64(value % 10)
    }

    /// Seconds given in milliseconds, written with three decimals.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    pub fn seconds(&mut self, name: &str, millis: u64) -> Result<(), TooSmall> {
        self.name(name)?;
        self.out.put_u64(millis / 1000)?;
        let rest = millis % 1000;
        self.out.put(b".")?;
        for digit in [rest / 100, rest / 10 % 10, rest % 10] {
            self.out.put_u64(digit)?;
        }
        Ok(())
    }

    /// A string.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    pub fn string(&mut self, name: &str, value: &str) -> Result<(), TooSmall> {
        self.name(name)?;
        self.out.put_json_string(value)
    }

    /// `true` or `false`.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    pub fn boolean(&mut self, name: &str, value: bool) -> Result<(), TooSmall> {
        self.name(name)?;
        self.out.put(if value { b"true" } else { b"false" })
    }

    fn sign(&mut self, negative: bool) -> Result<(), TooSmall> {
        if negative { self.out.put(b"-") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut buffer = [0; 256];
        let mut out = Output::new(&mut buffer);
        Members::object(&mut out, |m| {
            m.integer("min", i64::MIN)?;
            m.tenths("cold", -5)?;
            m.tenths("warm", 225)?;
            m.seconds("at", 1_727_712_000_045)?;
            m.string("name", "a\"b")?;
            m.boolean("on", true)
        })
        .unwrap();
        let len = out.len();
        let text = core::str::from_utf8(&buffer[..len]).unwrap();
        assert_eq!(
            text,
            r#"{"min":-9223372036854775808,"cold":-0.5,"warm":22.5,"at":1727712000.045,"name":"a\"b","on":true}"#
        );
        serde_json::from_str::<serde_json::Value>(text).unwrap();
    }
}
