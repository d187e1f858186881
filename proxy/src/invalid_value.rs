//! A value that an option, a file or a request cannot have: the cause, and the right form.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// Rejection of a value. The value and its place are named by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidValue {
    /// The cause.
    pub cause: Cow<'static, str>,
    /// The right form, or another remedy.
    pub remedy: Option<Cow<'static, str>>,
}

impl InvalidValue {
    /// Creates the rejection with a remedy.
    pub fn new(cause: impl Into<Cow<'static, str>>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { cause: cause.into(), remedy: Some(remedy.into()) }
    }

    /// Creates a rejection for which no remedy is known.
    pub fn without_remedy(cause: impl Into<Cow<'static, str>>) -> Self {
        Self { cause: cause.into(), remedy: None }
    }

    /// Puts the option, the file or another place before the cause.
    #[must_use]
    pub fn of(self, place: impl fmt::Display) -> Self {
        Self { cause: format!("{place}: {}", self.cause).into(), ..self }
    }

    /// Adds a remedy behind the others.
    #[must_use]
    pub fn or(self, further: impl Into<Cow<'static, str>>) -> Self {
        let further = further.into();
        let remedy = match self.remedy {
            Some(remedy) => format!("{remedy}; {further}").into(),
            None => further,
        };
        Self { remedy: Some(remedy), ..self }
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl Error for InvalidValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_before_the_cause_and_remedies_behind_it() {
        let invalid = InvalidValue::without_remedy("no port").of("--listen a");
        assert_eq!(invalid.to_string(), "--listen a: no port");
        assert_eq!(invalid.or("write a:1").or("or b:1").to_string(), "--listen a: no port; write a:1; or b:1");
    }
}
