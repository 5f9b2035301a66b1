//! `weft network`: list, make, look at, remove.

use super::{Each, print_inspected, print_list};
use crate::{
    cli::{CreateFlags, NetworkCommand},
    exit::Failure,
    output,
};
use std::{collections::BTreeMap, fmt::Display, net::IpAddr, process::ExitCode, str::FromStr};
use weft_agent::api::{Client, ErrorKind, NetworkSpec};
use weft_model::Subnet;

/// The driver option that means the MTU, in every Docker driver.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// The driver option that means the VNI.
const VNI_OPTION: &str = "weft.vni";
/// The driver option that asks for packets without outer headers.
const DIRECT_OPTION: &str = "weft.direct";

/// `weft network …`
pub async fn run(command: NetworkCommand, client: &Client) -> Result<ExitCode, Failure> {
    match command {
        NetworkCommand::Ls(flags) => {
            print_list(&client.networks().await?, flags, output::networks, |view| &view.network.id)?;
        }
        NetworkCommand::Create(flags) => {
            let made = client.create_network(&spec(*flags)?).await?;
            output::print(&format!("{}\n", made.network.id))?;
        }
        NetworkCommand::Inspect(flags) => {
            let (mut each, mut found) = (Each::default(), Vec::new());
            for reference in &flags.references {
                found.extend(each.take(client.network(reference).await));
            }
            print_inspected(&found, flags.format, output::network)?;
            return Ok(each.code());
        }
        NetworkCommand::Rm { references } => {
            let mut each = Each::default();
            for reference in &references {
                if each.take(client.remove_network(reference).await).is_some() {
                    output::print(&format!("{reference}\n"))?;
                }
            }
            return Ok(each.code());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the flags ask for.
pub(crate) fn spec(flags: CreateFlags) -> Result<NetworkSpec, Failure> {
    let subnets = subnets(&flags)?;
    let options = unique("-o", flags.options)?;
    Ok(NetworkSpec {
        name: Some(flags.name),
        subnets,
        vni: flag_or_option("--vni", flags.vni, VNI_OPTION, options.get(VNI_OPTION))?,
        mtu: flag_or_option("--mtu", flags.mtu, MTU_OPTION, options.get(MTU_OPTION))?,
        internal: flags.internal,
        direct: flag_or_option("-o", None, DIRECT_OPTION, options.get(DIRECT_OPTION))?.unwrap_or(false),
        labels: unique("--label", flags.label)?,
        options,
        ipv6: flags.ipv6,
        engine_addresses: false,
    })
}

/// The subnets, each with the gateway, the range and the reserved addresses that lie in it.
fn subnets(flags: &CreateFlags) -> Result<Vec<Subnet>, Failure> {
    let mut subnets: Vec<Subnet> = flags.subnet.iter().map(|net| Subnet::new(*net)).collect();
    let mut gateways = Vec::new();
    for &gateway in &flags.gateway {
        let subnet = holder(&mut subnets, "--gateway", gateway, gateway)?;
        if gateways.contains(&subnet.net) {
            return Err(invalid(format!("--gateway {gateway}: subnet {} has a gateway already", subnet.net)));
        }
        gateways.push(subnet.net);
        subnet.gateway = Some(gateway);
    }
    for &range in &flags.ip_range {
        let subnet = holder(&mut subnets, "--ip-range", range.addr(), range)?;
        if let Some(other) = subnet.range.replace(range) {
            return Err(invalid(format!(
                "--ip-range {range}: subnet {} has the range {other} already",
                subnet.net
            )));
        }
    }
    for (name, ip) in &flags.aux_address {
        let subnet = holder(&mut subnets, "--aux-address", *ip, format!("{name}={ip}"))?;
        if let Some(other) = subnet.reserved.insert(name.clone(), *ip) {
            return Err(invalid(format!("--aux-address {name}={ip}: {name} is {other} already")));
        }
    }
    // None at all is a wish, not a mistake: weft chooses one that is free on every host.
    if !subnets.is_empty() {
        Subnet::validate_all(&subnets).map_err(|e| invalid(e.to_string()))?;
    }
    Ok(subnets)
}

/// The subnet that holds `ip`.
fn holder<'a>(
    subnets: &'a mut [Subnet],
    flag: &str,
    ip: IpAddr,
    value: impl Display,
) -> Result<&'a mut Subnet, Failure> {
    let none = subnets.is_empty();
    subnets.iter_mut().find(|subnet| subnet.net.contains(&ip)).ok_or_else(|| {
        let reason = if none { "needs a --subnet that holds it" } else { "lies in none of the subnets" };
        invalid(format!("{flag} {value} {reason}"))
    })
}

/// A value that may come as a flag or as a driver option. Both may be there if they say the same.
fn flag_or_option<T>(
    flag_name: &str,
    flag: Option<T>,
    option_name: &str,
    option: Option<&String>,
) -> Result<Option<T>, Failure>
where
    T: FromStr<Err: Display> + Display + PartialEq,
{
    let Some(text) = option else { return Ok(flag) };
    let value: T = text.parse().map_err(|e| invalid(format!("-o {option_name}: {e}")))?;
    match flag {
        Some(flag) if flag != value => {
            Err(invalid(format!("{flag_name} {flag} and -o {option_name}={value} contradict each other")))
        }
        _ => Ok(Some(value)),
    }
}

/// Pairs as a map. The same key twice with different values is a mistake.
fn unique(flag: &str, mut pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    pairs.sort();
    pairs.dedup();
    if let Some(same) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
        return Err(invalid(format!(
            "{flag} {}: given as {:?} and as {:?}",
            same[0].0, same[0].1, same[1].1
        )));
    }
    Ok(pairs.into_iter().collect())
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use weft_model::{Mtu, Vni};

    fn asked(flags: &str) -> Result<NetworkSpec, Failure> {
        let line = format!("weft network create net {flags}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Network(NetworkCommand::Create(flags)) => spec(*flags),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_but_a_name_leaves_the_rest_to_weft() {
        let spec = asked("").unwrap();
        assert_eq!(spec, NetworkSpec { name: Some("net".parse().unwrap()), ..NetworkSpec::default() });
    }

    #[test]
    fn gateways_ranges_and_reserved_addresses_find_their_subnets() {
        let spec = asked(
            "--subnet 10.9.0.0/24 --subnet fd00:9::/64 --gateway fd00:9::fe --ip-range 10.9.0.128/25 \
             --aux-address router=10.9.0.7 --aux-address b=fd00:9::7 --ipv6",
        )
        .unwrap();
        let [v4, v6] = &spec.subnets[..] else { panic!("{spec:?}") };
        assert_eq!(v4.gateway, Some("10.9.0.1".parse().unwrap()));
        assert_eq!(v4.range, Some("10.9.0.128/25".parse().unwrap()));
        assert_eq!(v4.reserved, [("router".to_owned(), "10.9.0.7".parse().unwrap())].into());
        assert_eq!(v6.gateway, Some("fd00:9::fe".parse().unwrap()));
        assert_eq!(v6.range, None);
        assert_eq!(v6.reserved, [("b".to_owned(), "fd00:9::7".parse().unwrap())].into());
    }

    #[test]
    fn the_driver_options_mean_the_same_as_the_flags() {
        let (mtu, vni) = (Some(Mtu::new(1400).unwrap()), Some(Vni::new(5000).unwrap()));
        for flags in [
            "--mtu 1400 --vni 5000",
            "-o com.docker.network.driver.mtu=1400 -o weft.vni=5000",
            "--mtu 1400 --vni 5000 -o com.docker.network.driver.mtu=1400 -o weft.vni=5000",
        ] {
            let spec = asked(flags).unwrap();
            assert_eq!((spec.mtu, spec.vni), (mtu, vni), "{flags}");
        }
        assert!(
            asked("-o weft.direct=true").unwrap().direct && !asked("-o weft.direct=false").unwrap().direct
        );
        let spec = asked("-o weft.vni=5000 --opt x=y --label a=b").unwrap();
        assert_eq!(spec.options.len(), 2, "options stay as given");
        assert_eq!(spec.labels, [("a".to_owned(), "b".to_owned())].into());
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_the_daemon_is_asked() {
        for (flags, expected) in [
            ("--gateway 10.9.0.1", "--gateway 10.9.0.1 needs a --subnet that holds it"),
            ("--subnet 10.9.0.0/24 --gateway 10.8.0.1", "--gateway 10.8.0.1 lies in none of the subnets"),
            ("--subnet 10.9.0.0/24 --gateway 10.9.0.1,10.9.0.2", "has a gateway already"),
            ("--subnet 10.9.0.0/24 --gateway 10.9.0.255", "is the broadcast address"),
            ("--subnet 10.9.0.0/24 --ip-range 10.9.1.0/25", "--ip-range 10.9.1.0/25 lies in none"),
            ("--subnet 10.9.0.0/24 --ip-range 10.9.0.0/23", "is not inside subnet"),
            (
                "--subnet 10.9.0.0/24 --ip-range 10.9.0.0/25,10.9.0.128/25",
                "has the range 10.9.0.0/25 already",
            ),
            ("--subnet 10.9.0.0/24 --aux-address a=10.9.0.2,a=10.9.0.3", "a is 10.9.0.2 already"),
            ("--subnet 10.9.0.0/16 --subnet 10.9.7.0/24", "overlap"),
            ("--subnet 10.9.0.0/31", "too small"),
            ("--mtu 1400 -o com.docker.network.driver.mtu=1300", "contradict each other"),
            ("-o weft.vni=0", "-o weft.vni: "),
            ("-o weft.direct=maybe", "-o weft.direct: "),
            ("-o a=1 -o a=2", "-o a: given as \"1\" and as \"2\""),
        ] {
            let failure = asked(flags).unwrap_err();
            assert!(failure.message.contains(expected), "{flags}: {}", failure.message);
            assert_eq!(failure.kind, ErrorKind::Invalid, "{flags}");
        }
    }
}
