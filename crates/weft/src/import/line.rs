//! A network as the command that makes it.

use weft_agent::api::NetworkSpec;
use weft_model::Subnet;

/// The `weft network create …` that makes exactly this network, for a shell.
pub fn command_line(spec: &NetworkSpec) -> String {
    let mut words = vec!["weft".to_owned(), "network".to_owned(), "create".to_owned()];
    let mut flag = |name: &str, value: String| match value.strip_prefix('-') {
        // It would be read as an option.
        Some(_) => words.push(format!("{name}={}", quoted(&value))),
        None => words.extend([name.to_owned(), quoted(&value)]),
    };
    for subnet in &spec.subnets {
        flag("--subnet", subnet.net.to_string());
        // The first address is what weft takes by itself.
        if let Some(gateway) = subnet.gateway.filter(|gateway| *gateway != Subnet::first_host(subnet.net)) {
            flag("--gateway", gateway.to_string());
        }
        if let Some(range) = subnet.range {
            flag("--ip-range", range.to_string());
        }
        for (name, ip) in &subnet.reserved {
            flag("--aux-address", format!("{name}={ip}"));
        }
    }
    for (key, value) in &spec.labels {
        flag("--label", format!("{key}={value}"));
    }
    for (key, value) in &spec.options {
        flag("-o", format!("{key}={value}"));
    }
    if let Some(mtu) = spec.mtu {
        flag("--mtu", mtu.to_string());
    }
    if let Some(vni) = spec.vni {
        flag("--vni", vni.to_string());
    }
    words.extend(spec.ipv6.then(|| "--ipv6".to_owned()));
    words.extend(spec.internal.then(|| "--internal".to_owned()));
    words.extend(spec.name.as_ref().map(ToString::to_string));
    words.join(" ")
}

/// A word as a POSIX shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
