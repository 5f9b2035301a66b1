//! The daemon's settings: each is a flag, a `WEFT_…` variable and a key of one TOML file, and the first of the three
//! that has it wins; else the default holds.
//!
//! The flags are the only list: a variable's name is the flag's in capitals, a key is the flag's without its
//! dashes, and a key of the file that is no flag is refused. An empty variable counts as absent, so that a unit
//! file can pass variables on that are not set.

use clap::Args;
use ipnet::Ipv4Net;
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use weft_agent::{Advertise, AgentOptions, Datapath, api::ErrorKind};
use weft_engines::docker::DockerOptions;
use weft_model::{Domain, VniRange};
use weft_store::{JoinToken, OptionError, StoreOptions, StoreUrl};

/// The file that is read when it exists and none is named.
pub const DEFAULT_FILE: &str = "/etc/weft/weft.toml";

/// The setting that is a list.
const STORE_OPTIONS: &str = "cluster-store-opt";

/// The daemon's socket when neither --socket nor --run-dir says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";

/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "weft.sock";

/// Where this host's daemon keeps its things: what `weft daemon` and `weft down` must agree on.
#[derive(Args, Clone, Debug, Default)]
pub struct HostFlags {
    /// The TOML file with the same settings [default: /etc/weft/weft.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is kept over restarts: the node's id, the embedded store, the last snapshot [default: /var/lib/weft]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the daemon's socket is made [default: /run/weft]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The network namespace that holds weft's devices [default: weft]
    #[arg(long, value_name = "NAME")]
    pub overlay_netns: Option<String>,
    /// The socket by which Docker finds weft [default: /run/docker/plugins/weft.sock]
    #[arg(long, value_name = "PATH")]
    pub docker_plugin_socket: Option<PathBuf>,
}

/// What `weft daemon --help` ends with.
pub const LAYERS_HELP: &str = "\
Each of these is also a variable (--vni-range: WEFT_VNI_RANGE) and a key of the TOML file /etc/weft/weft.toml or
--config (vni-range = \"5000-5999\"). A flag goes before the variable, the variable before the file.
Several options of the store stand with commas between in one variable or key, or as a list in the file
(cluster-store-opt = [\"kv.user=weft\", \"kv.passwordfile=/etc/weft/password\"]).";

/// The flags of `weft daemon`.
#[derive(Args, Clone, Debug, Default)]
pub struct DaemonFlags {
    /// The cluster's store: etcd://HOST:PORT[,HOST:PORT][/PREFIX], consul://HOST:PORT[,HOST:PORT][/PREFIX],
    /// weft://HOST:PORT (another daemon's embedded store), or local (an embedded store of this daemon's own)
    /// [default: local]
    #[arg(long, value_name = "URL")]
    pub cluster_store: Option<StoreUrl>,
    /// An option of the store, may be given several times: kv.cacertfile, kv.certfile and kv.keyfile (PEM files; any
    /// of them switches TLS on), kv.path (the prefix), kv.user and kv.passwordfile (etcd's user; the password is read
    /// from a file because everyone can list the arguments of processes)
    #[arg(long, value_name = "KEY=VALUE")]
    pub cluster_store_opt: Vec<StoreOptions>,
    /// How the other hosts reach this one: INTERFACE:PORT or ADDRESS:PORT, as in eth0:2375 [default: the interface
    /// of the default route, port 2375]
    #[arg(long, value_name = "INTERFACE:PORT")]
    pub cluster_advertise: Option<Advertise>,
    /// The join token of the daemon whose store is used (seen by everyone who lists processes: prefer the file)
    #[arg(long, value_name = "TOKEN", conflicts_with = "join_token_file")]
    pub join_token: Option<JoinToken>,
    /// A file with the join token
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// This node's name [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// How frames are carried: ebpf (by programs in the kernel), kernel (by its bridge and VXLAN device), or auto
    /// (ebpf where the kernel can) [default: auto]
    #[arg(long, value_name = "auto|ebpf|kernel")]
    pub datapath: Option<Datapath>,
    /// The UDP port of the tunnel, the same on every host [default: 4789]
    #[arg(long, value_name = "PORT")]
    pub vxlan_port: Option<UdpPort>,
    /// The subnet of the addresses that containers of CNI and Podman have for their way out, each host's own affair
    /// [default: a /20 of 172.16.0.0/16 that is free on this host]
    #[arg(long, value_name = "SUBNET")]
    pub gateway_subnet: Option<Ipv4Net>,
    /// The VXLAN identifiers to choose from [default: 4096-16777215]
    #[arg(long, value_name = "FIRST-LAST")]
    pub vni_range: Option<VniRange>,
    /// How often the kernel is compared with what it should be, even when nothing happened [default: 3]
    #[arg(long, value_name = "SECONDS")]
    pub reconcile_interval: Option<Seconds>,
    /// How long this node counts as alive after its last sign of life [default: 15]
    #[arg(long, value_name = "SECONDS")]
    pub lease_ttl: Option<Seconds>,
    /// How long to wait for the store at the start [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub store_timeout: Option<Seconds>,
    /// What names of endpoints end with if written in full, as in web.my-net.weft [default: weft]
    #[arg(long, value_name = "DOMAIN")]
    pub dns_domain: Option<Domain>,
    /// Answer no DNS queries in the containers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_dns: Option<Switch>,
    /// Where Docker's API is [default: `unix:///var/run/docker.sock`]
    #[arg(long, value_name = "URL")]
    pub docker_socket: Option<String>,
    /// Serve no Docker engine
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_docker: Option<Switch>,
    /// What to log, as in `info` or `weft_agent=debug,info` [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Where the daemon keeps its things.
    #[command(flatten)]
    pub host: HostFlags,
}

/// The settings of [`HostFlags`], resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// See [`HostFlags::state_dir`].
    pub state_dir: PathBuf,
    /// See [`HostFlags::run_dir`].
    pub run_dir: PathBuf,
    /// See [`HostFlags::overlay_netns`].
    pub overlay_netns: String,
    /// See [`HostFlags::docker_plugin_socket`].
    pub docker_plugin_socket: PathBuf,
}

impl HostConfig {
    /// The settings that hold for these flags.
    pub fn resolve(flags: &HostFlags, layers: &Layers<'_>) -> Result<Self, ConfigError> {
        let path = |key, flag: Option<&PathBuf>, default: &str| -> Result<PathBuf, ConfigError> {
            Ok(layers.value(key, flag)?.unwrap_or_else(|| default.into()))
        };
        Ok(Self {
            state_dir: path("state-dir", flags.state_dir.as_ref(), "/var/lib/weft")?,
            run_dir: path("run-dir", flags.run_dir.as_ref(), "/run/weft")?,
            overlay_netns: layers
                .value("overlay-netns", flags.overlay_netns.as_ref())?
                .unwrap_or_else(|| "weft".to_owned()),
            docker_plugin_socket: path(
                "docker-plugin-socket",
                flags.docker_plugin_socket.as_ref(),
                "/run/docker/plugins/weft.sock",
            )?,
        })
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET_NAME)
    }
}

/// The settings of [`DaemonFlags`], resolved.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// What the agent is told.
    pub agent: AgentOptions,
    /// Where Docker is; `None`: no Docker engine is served.
    pub docker: Option<DockerOptions>,
    /// The log's filter.
    pub log: String,
}

impl DaemonConfig {
    /// The settings that hold for these flags. `host_name` is the default of the node's name.
    pub fn resolve(flags: &DaemonFlags, layers: &Layers<'_>, host_name: &str) -> Result<Self, ConfigError> {
        let host = HostConfig::resolve(&flags.host, layers)?;
        let seconds = |key, flag: Option<&Seconds>, default| -> Result<Duration, ConfigError> {
            Ok(layers.value(key, flag)?.map_or(Duration::from_secs(default), |s| s.0))
        };
        let text = |key, flag: Option<&String>, default: &str| -> Result<String, ConfigError> {
            Ok(layers.value(key, flag)?.unwrap_or_else(|| default.to_owned()))
        };
        let no_docker = layers.value("no-docker", flags.no_docker.as_ref())?.is_some_and(|s| s.0);
        let docker = DockerOptions {
            plugin_socket: host.docker_plugin_socket,
            api: docker_url(text(
                "docker-socket",
                flags.docker_socket.as_ref(),
                "unix:///var/run/docker.sock",
            )?),
            ..DockerOptions::default()
        };
        let (cluster_store, store_options) = layers.store(flags)?;
        let dns_domain = layers.value("dns-domain", flags.dns_domain.as_ref())?.unwrap_or_default();
        let no_dns = layers.value("no-dns", flags.no_dns.as_ref())?.is_some_and(|s: Switch| s.0);
        let agent = AgentOptions {
            cluster_store,
            store_options,
            advertise: layers.value("cluster-advertise", flags.cluster_advertise.as_ref())?,
            join_token: layers.join_token(flags)?,
            node_name: text("node-name", flags.node_name.as_ref(), host_name)?,
            state_dir: host.state_dir,
            run_dir: host.run_dir,
            overlay_netns: host.overlay_netns,
            datapath: layers.value("datapath", flags.datapath.as_ref())?.unwrap_or_default(),
            gateway_subnet: layers.value("gateway-subnet", flags.gateway_subnet.as_ref())?,
            vxlan_port: layers.value("vxlan-port", flags.vxlan_port.as_ref())?.unwrap_or_default().0,
            vni_range: layers.value("vni-range", flags.vni_range.as_ref())?.unwrap_or_default(),
            dns_domain: (!no_dns).then_some(dns_domain),
            reconcile_interval: seconds("reconcile-interval", flags.reconcile_interval.as_ref(), 3)?,
            lease_ttl: seconds("lease-ttl", flags.lease_ttl.as_ref(), 15)?,
            store_timeout: seconds("store-timeout", flags.store_timeout.as_ref(), 10)?,
        };
        Ok(Self {
            agent,
            docker: (!no_docker).then_some(docker),
            log: text("log", flags.log.as_ref(), "info")?,
        })
    }
}

/// A plain path is taken for the socket it is.
fn docker_url(text: String) -> String {
    if text.starts_with('/') { format!("unix://{text}") } else { text }
}

/// What lies below the flags: the variables and the file.
pub struct Layers<'a> {
    variables: &'a dyn Fn(&str) -> Option<String>,
    file: PathBuf,
    keys: BTreeMap<String, String>,
}

impl<'a> Layers<'a> {
    /// Reads the file: the one of the flag, else of `WEFT_CONFIG` (those must exist), else the default one if it
    /// exists. `variables` looks a variable of the environment up.
    pub fn read(
        flag: Option<&Path>,
        variables: &'a dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let named = flag.map(Path::to_owned).or_else(|| present(variables, "WEFT_CONFIG").map(PathBuf::from));
        let must_exist = named.is_some();
        let file = named.unwrap_or_else(|| DEFAULT_FILE.into());
        let keys = match std::fs::read_to_string(&file) {
            Ok(text) => parse(&file, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => BTreeMap::new(),
            Err(e) => return Err(ConfigError::unreadable(&file, &e)),
        };
        Ok(Self { variables, file, keys })
    }

    /// The layers of a file with this text: see [`crate::fuzzing`].
    pub fn of_text(text: &str, variables: &'a dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let file = PathBuf::from(DEFAULT_FILE);
        Ok(Self { variables, keys: parse(&file, text)?, file })
    }

    /// The value of a setting, from the first layer that has it.
    pub fn value<T>(&self, key: &str, flag: Option<&T>) -> Result<Option<T>, ConfigError>
    where
        T: FromStr<Err: fmt::Display> + Clone,
    {
        if let Some(value) = flag {
            return Ok(Some(value.clone()));
        }
        self.variable(key).or_else(|| self.key(key)).map(Found::parse).transpose()
    }

    /// The store and its options, checked together: the URL that is returned has the prefix that holds.
    pub fn store(&self, flags: &DaemonFlags) -> Result<(StoreUrl, StoreOptions), ConfigError> {
        let url = self.value("cluster-store", flags.cluster_store.as_ref())?.unwrap_or(StoreUrl::Local);
        let (place, options) = match &flags.cluster_store_opt[..] {
            [] => match self.variable(STORE_OPTIONS).or_else(|| self.key(STORE_OPTIONS)) {
                Some(found) => (found.place.clone(), found.parse()),
                None => (String::new(), Ok(StoreOptions::default())),
            },
            given => {
                let place = format!("--{STORE_OPTIONS}");
                let all = given.iter().cloned().try_fold(StoreOptions::default(), StoreOptions::and);
                (place.clone(), all.map_err(|e| ConfigError::store_option(&place, &e)))
            }
        };
        let options = options?;
        let url = options.check(&url).map_err(|e| ConfigError::store_option(&place, &e))?;
        Ok((url, options))
    }

    /// The join token may come as itself or as a file: the first layer that has either decides.
    pub fn join_token(&self, flags: &DaemonFlags) -> Result<Option<JoinToken>, ConfigError> {
        if let Some(token) = &flags.join_token {
            return Ok(Some(token.clone()));
        }
        if let Some(path) = &flags.join_token_file {
            return read_token("--join-token-file", path).map(Some);
        }
        let variables = (self.variable("join-token"), self.variable("join-token-file"));
        let keys = (self.key("join-token"), self.key("join-token-file"));
        for layer in [variables, keys] {
            match layer {
                (Some(token), Some(file)) => {
                    return Err(ConfigError::TwoTokens { first: token.place, second: file.place });
                }
                (Some(token), None) => return token.parse().map(Some),
                (None, Some(file)) => return read_token(&file.place, Path::new(&file.text)).map(Some),
                (None, None) => {}
            }
        }
        Ok(None)
    }

    /// A setting's variable and its value.
    fn variable(&self, key: &str) -> Option<Found> {
        let place = format!("WEFT_{}", key.to_uppercase().replace('-', "_"));
        let text = present(self.variables, &place)?;
        Some(Found { place, text })
    }

    /// A setting's place in the file and its value.
    fn key(&self, key: &str) -> Option<Found> {
        let text = self.keys.get(key)?.clone();
        Some(Found { place: format!("{}: {key}", self.file.display()), text })
    }
}

/// A value in writing, and where it was found.
struct Found {
    place: String,
    text: String,
}

impl Found {
    fn parse<T: FromStr<Err: fmt::Display>>(self) -> Result<T, ConfigError> {
        match self.text.parse() {
            Ok(value) => Ok(value),
            Err(error) => Err(ConfigError::Value { place: self.place, reason: error.to_string() }),
        }
    }
}

fn present(variables: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variables(name).filter(|value| !value.is_empty())
}

fn read_token(place: &str, path: &Path) -> Result<JoinToken, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::unreadable(path, &e))?;
    Found { place: format!("{place}: {}", path.display()), text: text.trim().to_owned() }.parse()
}

/// The keys that the file may have: the daemon's flags, except the one that names the file.
fn known_keys() -> Vec<String> {
    let command = DaemonFlags::augment_args(clap::Command::new("daemon"));
    let flags = command.get_arguments().filter_map(clap::Arg::get_long);
    flags.filter(|long| *long != "config").map(str::to_owned).collect()
}

/// The file's keys and their values in writing.
fn parse(file: &Path, text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let path = || file.display().to_string();
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        ConfigError::NotToml { path: path(), line, reason: e.message().to_owned() }
    })?;
    let known = known_keys();
    let mut keys = BTreeMap::new();
    for (key, value) in table {
        if !known.contains(&key) {
            return Err(ConfigError::UnknownKey { path: path(), key, known: known.join(", ") });
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            toml::Value::Array(list) if key == STORE_OPTIONS && list.iter().all(toml::Value::is_str) => {
                list.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                let found = other.type_str();
                return Err(ConfigError::Value {
                    place: format!("{}: {key}", path()),
                    reason: format!(
                        "expected a string, a whole number, true or false; this is of type {found}"
                    ),
                });
            }
        };
        keys.insert(key, value);
    }
    Ok(keys)
}

/// Why the settings make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named cannot be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// Its path.
        path: String,
        /// What the system said.
        reason: String,
        /// Not there, not allowed, or else.
        kind: ErrorKind,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}: {reason}")]
    NotToml {
        /// Its path.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A key that means nothing.
    #[error("{path}: unknown key {key:?}; known are {known}")]
    UnknownKey {
        /// The file's path.
        path: String,
        /// The key.
        key: String,
        /// Those that mean something.
        known: String,
    },
    /// A value that makes no sense.
    #[error("{place}: {reason}")]
    Value {
        /// The variable, or the file and the key.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token and a file for it, in one layer.
    #[error("{first} and {second} are both set: one of them is enough")]
    TwoTokens {
        /// Where the token is.
        first: String,
        /// Where the file is.
        second: String,
    },
}

impl ConfigError {
    fn store_option(place: &str, error: &OptionError) -> Self {
        Self::Value { place: place.to_owned(), reason: error.to_string() }
    }

    fn unreadable(path: &Path, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Internal,
        };
        Self::Unreadable { path: path.display().to_string(), reason: error.to_string(), kind }
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreadable { kind, .. } => *kind,
            _ => ErrorKind::Invalid,
        }
    }
}

impl From<ConfigError> for crate::exit::Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// A whole number of seconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

/// Why a string is not one of this module's values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ValueError {
    text: String,
    expected: &'static str,
}

impl FromStr for Seconds {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        // A day is more than any of these intervals can sensibly be, and far from overflowing a clock.
        let seconds = text.parse().ok().filter(|s| (1..=86_400).contains(s));
        seconds.map(|s| Self(Duration::from_secs(s))).ok_or_else(|| ValueError {
            text: text.to_owned(),
            expected: "a number of seconds from 1 to 86400",
        })
    }
}

/// A UDP port; 4789 (IANA's for VXLAN, RFC 7348) by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPort(pub u16);

impl Default for UdpPort {
    fn default() -> Self {
        Self(4789)
    }
}

impl FromStr for UdpPort {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let port = text.parse().ok().filter(|p| *p > 0).map(Self);
        port.ok_or_else(|| ValueError { text: text.to_owned(), expected: "a UDP port from 1 to 65535" })
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "true" | "1" => Ok(Self(true)),
            "false" | "0" => Ok(Self(false)),
            _ => Err(ValueError { text: text.to_owned(), expected: "true or false" }),
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
