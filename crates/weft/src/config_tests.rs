use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;
use tempfile::TempDir;

/// The settings that hold with these flags, variables and lines of a file.
fn settings(flags: &str, variables: &[(&str, &str)], file: &str) -> Result<DaemonConfig, ConfigError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weft.toml");
    std::fs::write(&path, file).unwrap();
    let variable =
        |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    let flags = daemon_flags(flags);
    let layers = Layers::read(Some(&path), &variable)?;
    DaemonConfig::resolve(&flags, &layers, "host1")
}

fn daemon_flags(flags: &str) -> DaemonFlags {
    let line = format!("weft daemon {flags}");
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        Command::Daemon(flags) => *flags,
        other => panic!("{other:?}"),
    }
}

fn message(flags: &str, variables: &[(&str, &str)], file: &str) -> String {
    settings(flags, variables, file).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_those_of_the_help() {
    let config = settings("", &[], "").unwrap();
    let agent = &config.agent;
    assert_eq!(agent.cluster_store, StoreUrl::Local);
    assert_eq!(agent.advertise, None);
    assert!(agent.join_token.is_none());
    assert_eq!(agent.node_name, "host1");
    assert_eq!(agent.state_dir, Path::new("/var/lib/weft"));
    assert_eq!(agent.run_dir, Path::new("/run/weft"));
    assert_eq!(agent.overlay_netns, "weft");
    assert_eq!(agent.vxlan_port, 4789);
    assert_eq!(agent.vni_range.to_string(), "4096-16777215");
    assert_eq!(agent.dns_domain.as_ref().unwrap().as_str(), "weft");
    assert_eq!(agent.reconcile_interval, Duration::from_secs(3));
    assert_eq!(agent.lease_ttl, Duration::from_secs(15));
    assert_eq!(agent.store_timeout, Duration::from_secs(10));
    assert_eq!(config.docker, Some(DockerOptions::default()));
    assert_eq!(config.log, "info");
}

/// One setting: two values in writing, and how to read it back.
type Setting = (&'static str, &'static str, &'static str, fn(&DaemonConfig) -> String);

const SETTINGS: &[Setting] = &[
    ("cluster-store", "etcd://a:1/x", "weft://b:2", |c| c.agent.cluster_store.to_string()),
    ("cluster-store-opt", "kv.path=a", "kv.path=b", |c| c.agent.store_options.to_string()),
    ("cluster-advertise", "eth0:1", "192.0.2.1:2", |c| c.agent.advertise.as_ref().unwrap().to_string()),
    ("node-name", "a", "b", |c| c.agent.node_name.clone()),
    ("state-dir", "/a", "/b", |c| c.agent.state_dir.display().to_string()),
    ("run-dir", "/a", "/b", |c| c.agent.run_dir.display().to_string()),
    ("overlay-netns", "a", "b", |c| c.agent.overlay_netns.clone()),
    ("datapath", "ebpf", "kernel", |c| format!("{:?}", c.agent.datapath).to_lowercase()),
    ("gateway-subnet", "172.30.0.0/20", "172.30.16.0/20", |c| c.agent.gateway_subnet.unwrap().to_string()),
    ("vxlan-port", "1", "2", |c| c.agent.vxlan_port.to_string()),
    ("vni-range", "5000-5001", "6000-6001", |c| c.agent.vni_range.to_string()),
    ("dns-domain", "a.b", "c", |c| c.agent.dns_domain.as_ref().unwrap().to_string()),
    ("no-dns", "true", "false", |c| c.agent.dns_domain.is_none().to_string()),
    ("reconcile-interval", "1", "2", |c| c.agent.reconcile_interval.as_secs().to_string()),
    ("lease-ttl", "7", "8", |c| c.agent.lease_ttl.as_secs().to_string()),
    ("store-timeout", "1", "2", |c| c.agent.store_timeout.as_secs().to_string()),
    ("docker-socket", "unix:///a", "unix:///b", |c| c.docker.as_ref().unwrap().api.clone()),
    ("docker-plugin-socket", "/a", "/b", |c| c.docker.as_ref().unwrap().plugin_socket.display().to_string()),
    ("no-docker", "true", "false", |c| c.docker.is_none().to_string()),
    ("log", "debug", "warn", |c| c.log.clone()),
    (
        "join-token",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        |c| c.agent.join_token.as_ref().unwrap().reveal(),
    ),
];

#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    for &(key, one, two, read) in SETTINGS {
        let flag = format!("--{key}={one}");
        let name = format!("WEFT_{}", key.to_uppercase().replace('-', "_"));
        let file = |value| format!("{key} = {value:?}\n");
        // The options of a store want one that has some.
        let store = if key == "cluster-store-opt" { "--cluster-store etcd://h:1 " } else { "" };
        let got = |flags: &str, variables: &[(&str, &str)], file: &str| {
            let flags = &format!("{store}{flags}");
            read(&settings(flags, variables, file).unwrap_or_else(|e| panic!("{key}: {e}")))
        };
        assert_eq!(got("", &[], &file(one)), one, "{key} by the file");
        assert_eq!(got("", &[(&name, one)], &file(two)), one, "{key} by the variable");
        assert_eq!(got(&flag, &[(&name, two)], &file(two)), one, "{key} by the flag");
        assert_eq!(got("", &[(&name, "")], &file(one)), one, "{key} by the file, the variable being empty");
    }
}

#[test]
fn every_flag_is_a_setting_that_was_tested() {
    let mut tested: Vec<String> = SETTINGS.iter().map(|(key, ..)| (*key).to_owned()).collect();
    tested.push("join-token-file".to_owned());
    tested.sort();
    let mut known = known_keys();
    known.sort();
    assert_eq!(known, tested);
}

#[test]
fn the_options_of_the_store_are_a_list_in_every_layer() {
    let store = "--cluster-store etcd://h:1";
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("p").display().to_string();
    std::fs::write(&file, "secret").unwrap();
    let list = format!("kv.path=a,kv.user=ann,kv.passwordfile={file}");
    let flags = format!(
        "{store} --cluster-store-opt kv.path=a --cluster-store-opt kv.user=ann --cluster-store-opt=kv.passwordfile={file}"
    );
    let as_list =
        format!("cluster-store-opt = [\"kv.path=a\", \"kv.user=ann\", \"kv.passwordfile={file}\"]\n");
    for (flags, variables, text) in [
        (flags.as_str(), &[][..], ""),
        (store, &[("WEFT_CLUSTER_STORE_OPT", list.as_str())], ""),
        (store, &[], as_list.as_str()),
    ] {
        let config = settings(flags, variables, text).unwrap();
        assert_eq!(config.agent.store_options, list.parse().unwrap());
        assert_eq!(config.agent.cluster_store.to_string(), "etcd://h:1/a", "the prefix that holds");
    }
}

#[test]
fn options_that_do_not_fit_the_store_are_told_with_their_place() {
    let etcd = "--cluster-store etcd://h:1";
    for (flags, variables, file, expected) in [
        (
            "--cluster-store-opt kv.path=a",
            &[][..],
            "",
            "--cluster-store-opt: kv.path means nothing to the store local",
        ),
        (
            "--cluster-store etcd://h:1 --cluster-store-opt kv.path=a --cluster-store-opt kv.path=b",
            &[],
            "",
            "--cluster-store-opt: kv.path is given twice",
        ),
        (
            etcd,
            &[("WEFT_CLUSTER_STORE_OPT", "kv.cacertfile=/nonexistent/ca.pem")],
            "",
            "WEFT_CLUSTER_STORE_OPT: kv.cacertfile=/nonexistent/ca.pem: No such file",
        ),
        (
            etcd,
            &[("WEFT_CLUSTER_STORE_OPT", "kv.cafile=/a")],
            "",
            "WEFT_CLUSTER_STORE_OPT: unknown option \"kv.cafile\"",
        ),
        (
            etcd,
            &[],
            "cluster-store-opt = [\"kv.user=ann\"]",
            "weft.toml: cluster-store-opt: kv.user is given without",
        ),
        (etcd, &[], "cluster-store-opt = [1]", "weft.toml: cluster-store-opt: expected a string"),
    ] {
        let text = message(flags, variables, file);
        assert!(text.contains(expected), "{text:?} should contain {expected:?}");
        assert_eq!(settings(flags, variables, file).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn numbers_and_switches_may_be_written_as_toml_has_them() {
    let config = settings("", &[], "vxlan-port = 8472\nlease-ttl = 30\nno-docker = true\n").unwrap();
    assert_eq!(config.agent.vxlan_port, 8472);
    assert_eq!(config.agent.lease_ttl, Duration::from_secs(30));
    assert_eq!(config.docker, None);
    assert_eq!(settings("--no-docker", &[], "").unwrap().docker, None);
}

#[test]
fn dockers_socket_may_be_a_plain_path() {
    let config = settings("--docker-socket /run/d.sock", &[], "").unwrap();
    assert_eq!(config.docker.unwrap().api, "unix:///run/d.sock");
}

#[test]
fn the_token_comes_from_the_first_layer_that_has_it_or_its_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("token");
    let token = |digit: &str| format!("{0}-{0}", digit.repeat(64));
    let (in_file, plain) = (token("c"), token("d"));
    std::fs::write(&path, format!("{in_file}\n")).unwrap();
    let path = path.display().to_string();
    let token = |flags: &str, variables: &[(&str, &str)], file: &str| {
        settings(flags, variables, file).unwrap().agent.join_token.unwrap().reveal()
    };
    let as_key = format!("join-token = {plain:?}\n");
    assert_eq!(token(&format!("--join-token-file {path}"), &[("WEFT_JOIN_TOKEN", &plain)], &as_key), in_file);
    assert_eq!(token("", &[("WEFT_JOIN_TOKEN_FILE", &path)], &as_key), in_file);
    assert_eq!(token("", &[("WEFT_JOIN_TOKEN", &plain)], &format!("join-token-file = {path:?}\n")), plain);

    let both = message("", &[], &format!("{as_key}join-token-file = {path:?}\n"));
    assert!(both.contains("weft.toml: join-token and ") && both.contains("one of them is enough"), "{both}");
    let gone = settings("--join-token-file /nonexistent/token", &[], "").unwrap_err();
    assert!(gone.to_string().starts_with("/nonexistent/token: No such file"), "{gone}");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn a_token_that_is_none_is_refused_without_being_repeated() {
    let text = message("", &[("WEFT_JOIN_TOKEN", "my-secret")], "");
    assert!(text.starts_with("WEFT_JOIN_TOKEN: not a join token"), "{text}");
    assert!(!text.contains("my-secret"), "{text}");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (variables, file, expected) in [
        (&[][..], "vni-rnage = \"1-2\"\n", "weft.toml: unknown key \"vni-rnage\"; known are cluster-store, "),
        (
            &[],
            "\n[vni-range]\nfirst = 1\n",
            "weft.toml: vni-range: expected a string, a whole number, true or false",
        ),
        (&[], "log = \"info\"\nlog = \n", "weft.toml, line 2: "),
        (&[], "vni-range = \"9\"\n", "weft.toml: vni-range: \"9\" is not"),
        (&[], "no-docker = \"perhaps\"\n", "weft.toml: no-docker: \"perhaps\" is not true or false"),
        (&[("WEFT_VXLAN_PORT", "70000")], "", "WEFT_VXLAN_PORT: \"70000\" is not a UDP port"),
        (&[("WEFT_LEASE_TTL", "0")], "", "WEFT_LEASE_TTL: \"0\" is not a number of seconds"),
        (&[("WEFT_CLUSTER_STORE", "redis://h:1")], "", "WEFT_CLUSTER_STORE: unknown store \"redis://h:1\""),
    ] {
        let text = message("", variables, file);
        assert!(text.contains(expected), "{text:?} should contain {expected:?}");
        assert_eq!(settings("", variables, file).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn only_a_file_that_was_named_must_exist() {
    let none = |_: &str| None;
    let missing = Layers::read(Some(Path::new("/nonexistent/weft.toml")), &none).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().starts_with("/nonexistent/weft.toml: "), "{missing}");
    let by_variable = |name: &str| (name == "WEFT_CONFIG").then(|| "/nonexistent/other.toml".to_owned());
    let missing = Layers::read(None, &by_variable).err().unwrap();
    assert!(missing.to_string().starts_with("/nonexistent/other.toml: "), "{missing}");
}

#[test]
fn the_host_settings_are_the_same_for_the_daemon_and_for_down() {
    let variables = |name: &str| (name == "WEFT_RUN_DIR").then(|| "/run/other".to_owned());
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weft.toml");
    std::fs::write(&path, "overlay-netns = \"blue\"\nlog = \"debug\"\n").unwrap();
    let layers = Layers::read(Some(&path), &variables).unwrap();
    let flags = HostFlags { state_dir: Some("/s".into()), ..HostFlags::default() };
    let host = HostConfig::resolve(&flags, &layers).unwrap();
    assert_eq!(host.socket(), Path::new("/run/other/weft.sock"));
    assert_eq!((host.overlay_netns.as_str(), host.state_dir.as_path()), ("blue", Path::new("/s")));
}
