//! How people name a place in a lab: `h1`, `h1/c1`.

use std::{fmt, str::FromStr};

/// A host of a lab, or a container on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host: `h1`.
    pub host: String,
    /// The container on it: `c1`.
    pub container: Option<String>,
}

impl FromStr for Target {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('/') {
            Some((host, container)) => Self { host: host.to_owned(), container: Some(container.to_owned()) },
            None => Self { host: text.to_owned(), container: None },
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.container {
            Some(container) => write!(f, "{}/{container}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_containers_are_told_apart_and_written_back_the_same() {
        for (text, container) in [("h1", None), ("h12/c3", Some("c3"))] {
            let Ok(target) = text.parse::<Target>();
            assert_eq!(target.container.as_deref(), container);
            assert_eq!(target.to_string(), text);
        }
    }
}
