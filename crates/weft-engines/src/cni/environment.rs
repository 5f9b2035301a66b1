//! The variables of a CNI call (specification 1.1, "Parameters").

use super::error::{BAD_ENVIRONMENT, CniError};
use std::{collections::BTreeMap, net::IpAddr, str::FromStr};
use weft_model::MacAddr;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Look whether it is attached as it was.
    Check,
    /// Remove what is not among the attachments named.
    Gc,
    /// Tell whether containers can be attached.
    Status,
    /// Tell the versions.
    Version,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is asked for.
    pub command: Command,
    /// The container's id; not empty where the command needs one.
    pub container: String,
    /// The network namespace's path; empty where it is gone.
    pub netns: String,
    /// The interface's name; not empty where the command needs one.
    pub interface: String,
    /// The name of the container, or of its pod, as Podman and Kubernetes tell it.
    pub name: Option<String>,
    /// The address asked for, as Podman tells it.
    pub ip: Option<IpAddr>,
    /// The MAC address asked for, as Podman tells it.
    pub mac: Option<MacAddr>,
}

impl Call {
    /// The call that these variables make.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let command = match variable("CNI_COMMAND").unwrap_or_default().as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            "" => return Err(bad("CNI_COMMAND is not set: a container runtime starts this program")),
            other => return Err(bad(format!("CNI_COMMAND {other:?} is not a command of CNI"))),
        };
        let is_about_one = matches!(command, Command::Add | Command::Del | Command::Check);
        let needed = |name: &str, is_needed: bool| match variable(name).filter(|value| !value.is_empty()) {
            None if is_needed => Err(bad(format!("{name} is not set"))),
            value => Ok(value.unwrap_or_default()),
        };
        let mut arguments = arguments(&variable("CNI_ARGS").unwrap_or_default())?;
        let call = Self {
            command,
            container: needed("CNI_CONTAINERID", is_about_one)?,
            netns: needed("CNI_NETNS", matches!(command, Command::Add | Command::Check))?,
            interface: needed("CNI_IFNAME", is_about_one)?,
            name: arguments.remove("K8S_POD_NAME"),
            ip: parsed(&arguments, "IP")?,
            mac: parsed(&arguments, "MAC")?,
        };
        if is_about_one && !is_container_id(&call.container) {
            return Err(bad(format!("CNI_CONTAINERID {:?} is not a container's id", call.container)));
        }
        if is_about_one && !is_interface_name(&call.interface) {
            return Err(bad(format!("CNI_IFNAME {:?} is not a name for an interface", call.interface)));
        }
        Ok(call)
    }
}

fn bad(message: impl Into<String>) -> CniError {
    CniError::new(BAD_ENVIRONMENT, message)
}

/// `KEY=VALUE;KEY=VALUE`. What is not known is for others.
fn arguments(text: &str) -> Result<BTreeMap<String, String>, CniError> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| bad(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

fn parsed<T: FromStr>(arguments: &BTreeMap<String, String>, name: &str) -> Result<Option<T>, CniError> {
    let wrong = |text: &String| bad(format!("CNI_ARGS: {name}={text} makes no sense"));
    arguments.get(name).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
}

/// Letters, digits, and behind the first also `_`, `.`, `-`.
fn is_container_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What Linux takes: 15 bytes at most (IFNAMSIZ), no slash, colon or space, not `.` or `..`.
fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(['/', ':'])
        && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.9.0.7;MAC=02:00:00:00:00:07"),
    ];

    /// The variables, but for one that is something else.
    fn with(name: &str, value: &str) -> Result<Call, CniError> {
        Call::of(|asked| {
            if asked == name {
                return Some(value.to_owned());
            }
            FULL.iter().find(|(known, _)| *known == asked).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_call_is_read_from_its_variables() {
        let call = with("", "").unwrap();
        assert_eq!((call.command, call.name.as_deref()), (Command::Add, Some("web")));
        assert_eq!(call.ip, Some([10, 9, 0, 7].into()));
        let (name, ip, mac) = (None, None, None);
        let no_namespace = Call { command: Command::Del, netns: String::new(), name, ip, mac, ..call };
        let variables = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        let of = |asked: &str| variables.iter().find(|(n, _)| *n == asked).map(|(_, v)| (*v).to_owned());
        assert_eq!(Call::of(of).unwrap(), no_namespace, "the namespace of a container that ends may be gone");
    }

    #[test]
    fn a_variable_that_is_missing_or_makes_no_sense_is_named() {
        for (name, value, words) in [
            ("CNI_COMMAND", "", "CNI_COMMAND is not set"),
            ("CNI_COMMAND", "add", "CNI_COMMAND \"add\" is not a command"),
            ("CNI_CONTAINERID", "", "CNI_CONTAINERID is not set"),
            ("CNI_CONTAINERID", "-c", "CNI_CONTAINERID \"-c\" is not"),
            ("CNI_NETNS", "", "CNI_NETNS is not set"),
            ("CNI_IFNAME", "", "CNI_IFNAME is not set"),
            ("CNI_IFNAME", "an-interface-name", "CNI_IFNAME \"an-interface-name\" is not"),
            ("CNI_IFNAME", "a/b", "CNI_IFNAME \"a/b\" is not"),
            ("CNI_ARGS", "IP=10.9", "CNI_ARGS: IP=10.9 makes no sense"),
            ("CNI_ARGS", "nonsense", "CNI_ARGS: \"nonsense\" is not KEY=VALUE"),
        ] {
            let error = with(name, value).unwrap_err();
            assert_eq!(error.code, BAD_ENVIRONMENT);
            assert!(error.message.starts_with(words), "{}", error.message);
        }
    }

    #[test]
    fn what_is_about_no_container_needs_none() {
        for command in ["VERSION", "STATUS", "GC"] {
            let of = |asked: &str| (asked == "CNI_COMMAND").then(|| command.to_owned());
            Call::of(of).unwrap();
        }
    }
}
