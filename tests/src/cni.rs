//! A container runtime as far as CNI goes, played by the specification.

use crate::weft;
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
};
use weft_lab::{Fixture, Host, Tools};

/// A container runtime as far as CNI goes: one list of plugins on one host.
pub struct Runtime {
    host: Host,
    plugins: PathBuf,
    /// The plugins' configurations.
    pub list: Vec<Value>,
    name: &'static str,
    /// The version of the specification.
    pub version: &'static str,
}

impl Runtime {
    /// weft's plugin, with `more` in its configuration, and those behind it.
    pub fn new(lab: &Fixture, daemon: usize, name: &'static str, more: &Value, behind: &[Value]) -> Self {
        let mut first = json!({ "type": "weft-cni", "socket": lab.daemons[daemon].socket(), "subnets": ["10.9.0.0/24"],
            "capabilities": { "ips": true, "mac": true, "aliases": true } });
        for (key, value) in more.as_object().unwrap() {
            first[key] = value.clone();
        }
        Self::of(lab, daemon, name, &[&[first], behind].concat())
    }

    /// A list of other plugins.
    pub fn of(lab: &Fixture, daemon: usize, name: &'static str, list: &[Value]) -> Self {
        let host = lab.hosts[daemon].clone();
        Self { plugins: plugins(&host.dir), host, list: list.to_vec(), name, version: "1.0.0" }
    }

    fn call(&self, plugin: &Value, command: &str, container: &str, input: &Value) -> Result<Value, Value> {
        let program = self.plugins.join(plugin["type"].as_str().unwrap());
        let netns = format!("/run/netns/{container}");
        let mut child = self
            .host
            .command(&program.display().to_string())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            // What a runtime says of a namespace that is gone.
            .env("CNI_NETNS", if command == "DEL" && !Path::new(&netns).exists() { "" } else { &netns })
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() { Ok(answer) } else { Err(answer) }
    }

    /// A plugin's configuration as a runtime makes it: of what is asked for, it gets what it says that it can.
    fn input(&self, plugin: &Value, asked: &Value, previous: Option<&Value>) -> Value {
        let mut input = plugin.clone();
        (input["name"], input["cniVersion"]) = (json!(self.name), json!(self.version));
        input["runtimeConfig"] = json!({});
        for (capability, value) in asked.as_object().unwrap() {
            if plugin["capabilities"][capability] == true {
                input["runtimeConfig"][capability] = value.clone();
            }
        }
        if let Some(previous) = previous {
            input["prevResult"] = previous.clone();
        }
        input
    }

    /// Attaches a container, whose namespace has its name; the last plugin's result.
    pub fn add(&self, container: &str, asked: &Value) -> Result<Value, Value> {
        let mut result = None;
        for plugin in &self.list {
            result =
                Some(self.call(plugin, "ADD", container, &self.input(plugin, asked, result.as_ref()))?);
        }
        Ok(result.unwrap())
    }

    /// Does the same with all plugins, the last first: `DEL`, `CHECK`, `GC`, `STATUS`.
    pub fn all(
        &self,
        command: &str,
        container: &str,
        asked: &Value,
        result: Option<&Value>,
    ) -> Result<(), Value> {
        self.list.iter().rev().try_for_each(|plugin| {
            self.call(plugin, command, container, &self.input(plugin, asked, result)).map(drop)
        })
    }
}

/// weft's plugin and the standard ones, in one folder.
pub fn plugins(dir: &Path) -> PathBuf {
    let folder = dir.join("cni-bin");
    if fs::create_dir(&folder).is_ok() {
        symlink(weft().with_file_name("weft-cni"), folder.join("weft-cni")).unwrap();
        if let Ok(standard) = Tools::from_env().cni_plugins() {
            for entry in fs::read_dir(standard).unwrap().flatten() {
                symlink(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
    }
    folder
}
