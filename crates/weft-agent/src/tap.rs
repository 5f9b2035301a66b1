//! `weft attach --tap` and `weft detach --tap`: a virtual machine on a network, by a tap device in the host's namespace that
//! QEMU or libvirt opens by its name. The address is claimed as any other; the machine gives it to its own interface.

use crate::{
    Agent, AgentError, EndpointSpec,
    api::{AttachTapRequest, DetachTapRequest},
};
use weft_model::{Container, Endpoint, EndpointId, Sandbox, Tap};

/// The engine of endpoints that `weft attach --tap` made.
const TAP: &str = "tap";

impl Agent {
    /// Puts a tap device on a network. Nothing is left of a failure.
    pub async fn attach_tap(&self, request: AttachTapRequest) -> Result<Endpoint, AgentError> {
        let network = self.find_network(&request.network).await?;
        check_name(&request.tap)?;
        if let Some(present) = self.attached_tap(&request.tap) {
            let on = self.read(|s| s.networks.get(&present.network).map(|n| n.display_name().into_owned()));
            return Err(AgentError::AlreadyAttached {
                what: told(&request.tap),
                network: on.unwrap_or_else(|| present.network.short()),
                interface: present.display_name().into_owned(),
            });
        }
        let name = request.name.unwrap_or_else(|| request.tap.clone());
        let tap = Some(Tap { owner: request.owner });
        self.create_endpoint(EndpointSpec {
            id: EndpointId::random(),
            network: network.id,
            engine: TAP.to_owned(),
            container: Some(Container {
                aliases: request.aliases,
                ..Container::new(request.tap.clone(), name)
            }),
            sandbox: Some(Sandbox { tap, ..Sandbox::namespace(Sandbox::HOST, request.tap) }),
            outside: None,
            mac: request.mac,
            addresses: request.addresses,
            allocate: true,
        })
        .await
    }

    /// Takes a tap device off a network; one that weft made is removed.
    pub async fn detach_tap(&self, request: DetachTapRequest) -> Result<(), AgentError> {
        let network = self.find_network(&request.network).await?;
        let endpoint = self.attached_tap(&request.tap).filter(|e| e.network == network.id);
        let endpoint = endpoint.ok_or_else(|| AgentError::NotAttached {
            what: told(&request.tap),
            network: network.display_name().into_owned(),
        })?;
        self.remove_endpoint(&network.id, &endpoint.id).await
    }

    /// A tap is on one network at most: what comes out of it belongs to one.
    fn attached_tap(&self, tap: &str) -> Option<Endpoint> {
        self.0.view.look_up(|known| {
            let mut ours = known.own().filter(|e| e.engine == TAP);
            ours.find(|e| e.sandbox.as_ref().is_some_and(|s| s.interface == tap)).cloned()
        })
    }
}

fn told(tap: &str) -> String {
    format!("tap device {tap}")
}

/// What the kernel takes as the name of one device, and weft does not use itself.
fn check_name(name: &str) -> Result<(), AgentError> {
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    let usable =
        !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || !c.is_ascii());
    if fits && usable && !name.starts_with("weft-") && !name.starts_with("weftc") {
        return Ok(());
    }
    Err(AgentError::Invalid(format!(
        "{name:?} cannot be the name of a tap device: it has 1 to 15 ASCII characters, none of them a space, '/', ':' or \
         '%', and begins with neither weft- nor weftc"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_has_the_name_of_a_device() {
        for good in ["tap0", "vm-web.0", "vnet12"] {
            check_name(good).unwrap();
        }
        for bad in ["", "a/b", "tap%d", "two words", "sixteen-letters-", "weftc0123456789", "weft-tap", ".."]
        {
            let message = check_name(bad).unwrap_err().to_string();
            assert!(message.contains("name of a tap device"), "{message}");
        }
    }
}
