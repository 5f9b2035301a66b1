//! What the mirror has to do: the cluster's networks and the engine's, compared.
//!
//! Pure: the same lists always give the same actions, and once all actions that can be done are done, the
//! comparison finds nothing more to do. So an event that the mirror's own action raises leads nowhere, an engine
//! that was away needs no history, and a network that was made by somebody else is never touched.

use super::plugin::COPY_OF;
use std::collections::{BTreeMap, BTreeSet};
use weft_agent::NetworkDetails;
use weft_model::{Binding, Network, NetworkId};

/// A network as the engine lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EngineNetwork {
    /// The engine's id of it.
    pub id: String,
    /// Its name: on old engines not unique.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its driver options.
    pub options: BTreeMap<String, String>,
    /// What the engine alone knows of a network that was made on it.
    pub details: NetworkDetails,
}

/// Something for the mirror to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Remove the engine's copy of a network that is gone.
    Remove {
        /// The engine's id of it.
        engine_network: String,
        /// Its name.
        name: String,
    },
    /// Forget a binding to a network that the engine does not have any more.
    Unbind {
        /// The engine's id of it.
        engine_network: String,
    },
    /// Note that a copy which the engine has is one.
    Bind {
        /// The engine's id of it.
        engine_network: String,
        /// The network.
        network: NetworkId,
    },
    /// Give a network that was made on this engine its name.
    Name {
        /// The network.
        network: NetworkId,
        /// The name it has on the engine.
        name: String,
        /// What else the engine knows of it.
        details: NetworkDetails,
    },
    /// Make a copy on this engine.
    Create {
        /// The network.
        network: NetworkId,
    },
    /// Nothing can be done: the operator has to.
    Report(String),
}

/// Compares the cluster's networks and this node's bindings with what the engine lists. `driver` is weft's name
/// as a driver of the engine. `vanished` are the engine's ids of networks that it does not list because they are
/// gone: others that are missing may be in the middle of their making or removal, when dockerd lists them not
/// yet or no more, and are left alone. The actions are in the order in which they have to be done.
pub(super) fn compare(
    networks: &BTreeMap<NetworkId, Network>,
    bindings: &BTreeMap<String, Binding>,
    engine: &[EngineNetwork],
    vanished: &BTreeSet<String>,
    driver: &str,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut reports = Vec::new();
    // Networks that have a copy here, or will have once the actions are done.
    let mut copied = BTreeSet::new();

    for present in engine.iter().filter(|n| n.driver == driver) {
        let bound = bindings.get(&present.id).map(|b| b.network.clone());
        let marked = present.options.get(COPY_OF).and_then(|id| id.parse::<NetworkId>().ok());
        let id = bound.clone().or(marked);
        match id.as_ref().map(|id| (id, networks.get(id))) {
            Some((id, Some(network))) => {
                copied.insert(id.clone());
                if bound.is_none() {
                    let (engine_network, network) = (present.id.clone(), id.clone());
                    actions.push(Action::Bind { engine_network, network });
                }
                if network.name.is_none() {
                    actions.push(Action::Name {
                        network: id.clone(),
                        name: present.name.clone(),
                        details: present.details.clone(),
                    });
                }
            }
            Some((_, None)) => {
                let (engine_network, name) = (present.id.clone(), present.name.clone());
                actions.push(Action::Remove { engine_network, name });
            }
            None => reports.push(Action::Report(format!(
                "Docker's network {:?} ({}) uses the driver {driver}, but this cluster does not have it: remove \
                 it with `docker network rm`",
                present.name,
                short(&present.id)
            ))),
        }
    }

    for (engine_network, binding) in bindings {
        if engine.iter().any(|n| n.id == *engine_network) {
            continue;
        }
        let exists = networks.contains_key(&binding.network);
        if exists && !vanished.contains(engine_network) {
            copied.insert(binding.network.clone());
        } else {
            actions.push(Action::Unbind { engine_network: engine_network.clone() });
        }
    }

    for (id, network) in networks {
        let Some(name) = &network.name else { continue };
        if copied.contains(id) {
            continue;
        }
        match engine.iter().find(|n| n.name == name.as_str()) {
            Some(other) => reports.push(Action::Report(format!(
                "name clash: network {:?} of the cluster has no copy on this Docker engine, which has another \
                 network of that name ({}, driver {}): remove or rename one of them",
                name.as_str(),
                short(&other.id),
                other.driver
            ))),
            None => actions.push(Action::Create { network: id.clone() }),
        }
    }
    actions.extend(reports);
    actions
}

/// The beginning of an id, as Docker prints it.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_model::{AddressDriver, NodeId, Subnet, Vni};

    const DRIVER: &str = "weft";

    fn network(id: &str, name: Option<&str>) -> (NetworkId, Network) {
        let id: NetworkId = format!("{id:0>12}").parse().unwrap();
        let network = Network {
            id: id.clone(),
            name: name.map(|n| n.parse().unwrap()),
            vni: Vni::new(4096).unwrap(),
            subnets: vec![Subnet::new("10.9.0.0/24".parse().unwrap())],
            mtu: None,
            internal: false,
            direct: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            address_driver: AddressDriver::Weft,
            created_by: NodeId::random(),
            created: 0,
        };
        (id, network)
    }

    fn on_engine(id: &str, name: &str, driver: &str, copy_of: Option<&NetworkId>) -> EngineNetwork {
        EngineNetwork {
            id: id.to_owned(),
            name: name.to_owned(),
            driver: driver.to_owned(),
            options: copy_of.map(|id| (COPY_OF.to_owned(), id.to_string())).into_iter().collect(),
            details: NetworkDetails::default(),
        }
    }

    fn bound(id: &str, network: &NetworkId) -> (String, Binding) {
        (id.to_owned(), Binding { network: network.clone(), mirrored: true })
    }

    fn gone(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_network_made_elsewhere_is_copied_once() {
        let (id, blue) = network("b", Some("blue"));
        let networks = BTreeMap::from([(id.clone(), blue)]);
        let create = vec![Action::Create { network: id.clone() }];
        assert_eq!(compare(&networks, &BTreeMap::new(), &[], &gone(&[]), DRIVER), create);

        let engine = [on_engine("e1", "blue", DRIVER, Some(&id))];
        let bindings = BTreeMap::from([bound("e1", &id)]);
        assert_eq!(compare(&networks, &bindings, &engine, &gone(&[]), DRIVER), []);
    }

    #[test]
    fn a_network_made_here_gets_its_name_and_no_copy() {
        let (id, nameless) = network("b", None);
        let networks = BTreeMap::from([(id.clone(), nameless)]);
        let bindings = BTreeMap::from([bound("e1", &id)]);
        assert_eq!(
            compare(&networks, &bindings, &[], &gone(&[]), DRIVER),
            [],
            "dockerd does not list it yet"
        );

        let engine = [on_engine("e1", "blue", DRIVER, None)];
        let name = Action::Name { network: id, name: "blue".to_owned(), details: NetworkDetails::default() };
        assert_eq!(compare(&networks, &bindings, &engine, &gone(&[]), DRIVER), [name]);
    }

    #[test]
    fn another_network_of_that_name_is_reported_and_left_alone() {
        let (id, blue) = network("b", Some("blue"));
        let networks = BTreeMap::from([(id, blue)]);
        let engine = [on_engine("e1", "blue", "bridge", None)];
        match &compare(&networks, &BTreeMap::new(), &engine, &gone(&[]), DRIVER)[..] {
            [Action::Report(problem)] => {
                assert!(
                    problem.starts_with("name clash: network \"blue\"") && problem.contains("driver bridge"),
                    "{problem}"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn copies_of_networks_that_are_gone_go() {
        let (lost, _) = network("b", Some("blue"));
        let engine = [on_engine("e1", "blue", DRIVER, Some(&lost)), on_engine("e2", "red", DRIVER, None)];
        let bindings = BTreeMap::from([bound("e2", &lost), bound("e3", &lost)]);
        let actions = compare(&BTreeMap::new(), &bindings, &engine, &gone(&[]), DRIVER);
        let remove =
            |id: &str, name: &str| Action::Remove { engine_network: id.to_owned(), name: name.to_owned() };
        let unbind = Action::Unbind { engine_network: "e3".to_owned() };
        assert_eq!(actions, [remove("e1", "blue"), remove("e2", "red"), unbind]);
    }

    #[test]
    fn a_copy_that_was_removed_behind_wefts_back_is_made_again() {
        let (id, blue) = network("b", Some("blue"));
        let networks = BTreeMap::from([(id.clone(), blue)]);
        let bindings = BTreeMap::from([bound("e1", &id)]);
        let unbind = Action::Unbind { engine_network: "e1".to_owned() };
        assert_eq!(
            compare(&networks, &bindings, &[], &gone(&["e1"]), DRIVER),
            [unbind, Action::Create { network: id }],
            "unbound first: the new copy's reserved addresses are asked for as those of a copy in the making"
        );
    }

    #[test]
    fn a_copy_that_dockerd_is_removing_is_not_made_again() {
        let (id, blue) = network("b", Some("blue"));
        let networks = BTreeMap::from([(id.clone(), blue)]);
        let bindings = BTreeMap::from([bound("e1", &id)]);
        assert_eq!(compare(&networks, &bindings, &[], &gone(&[]), DRIVER), []);
    }

    #[test]
    fn a_weft_network_of_another_life_is_reported_and_left_alone() {
        let engine = [on_engine("0123456789abcdef", "old", DRIVER, None)];
        match &compare(&BTreeMap::new(), &BTreeMap::new(), &engine, &gone(&[]), DRIVER)[..] {
            [Action::Report(problem)] => {
                assert!(problem.contains("\"old\" (0123456789ab)") && problem.contains("docker network rm"));
            }
            other => panic!("{other:?}"),
        }
    }

    /// An engine and a cluster that do what the actions say.
    #[derive(Clone, Debug)]
    struct World {
        networks: BTreeMap<NetworkId, Network>,
        bindings: BTreeMap<String, Binding>,
        engine: Vec<EngineNetwork>,
    }

    impl World {
        fn compare(&self) -> Vec<Action> {
            let missing = |id: &&String| self.engine.iter().all(|n| n.id != **id);
            let vanished = self.bindings.keys().filter(missing).cloned().collect();
            compare(&self.networks, &self.bindings, &self.engine, &vanished, DRIVER)
        }

        /// Does the actions; returns how many there were that changed something.
        fn act(&mut self, actions: Vec<Action>) -> usize {
            let mut done = 0;
            for action in actions {
                done += 1;
                match action {
                    Action::Remove { engine_network, .. } => self.engine.retain(|n| n.id != engine_network),
                    Action::Unbind { engine_network } => {
                        self.bindings.remove(&engine_network).expect("a binding to forget");
                    }
                    Action::Bind { engine_network, network } => {
                        self.bindings.insert(engine_network, Binding { network, mirrored: true });
                    }
                    Action::Name { network, name, .. } => {
                        let taken = self.networks.values().any(|n| n.display_name() == name);
                        if !taken {
                            self.networks.get_mut(&network).unwrap().name = Some(name.parse().unwrap());
                        }
                        done -= usize::from(taken);
                    }
                    Action::Create { network } => {
                        let name = self.networks[&network].display_name().into_owned();
                        assert!(self.engine.iter().all(|n| n.name != name), "{name} would be there twice");
                        let id = format!("copy-{network}");
                        self.engine.push(on_engine(&id, &name, DRIVER, Some(&network)));
                        self.bindings.insert(id, Binding { network, mirrored: true });
                    }
                    Action::Report(_) => done -= 1,
                }
            }
            done
        }
    }

    fn worlds() -> impl Strategy<Value = World> {
        let names = || prop::sample::select(vec!["blue", "red", "green", "grey"]);
        let network = (0..6u8, prop::option::of(names()));
        // Its name, driver, the network it is marked as a copy of, the one it is bound to, whether it is listed.
        let listed =
            (names(), any::<bool>(), prop::option::of(0..6u8), prop::option::of(0..6u8), any::<bool>());
        (prop::collection::vec(network, 0..6), prop::collection::vec(listed, 0..6)).prop_map(
            |(networks, listed)| {
                let mut world =
                    World { networks: BTreeMap::new(), bindings: BTreeMap::new(), engine: Vec::new() };
                for (id, name) in networks {
                    let taken =
                        world.networks.values().any(|n| name.is_some_and(|name| n.display_name() == name));
                    let (id, network) = super::tests::network(&format!("a{id}"), name.filter(|_| !taken));
                    world.networks.insert(id, network);
                }
                for (n, (name, ours, marked, bound, listed)) in listed.into_iter().enumerate() {
                    let id = format!("e{n}");
                    let driver = if ours { DRIVER } else { "bridge" };
                    let of = |k: u8| super::tests::network(&format!("a{k}"), None).0;
                    if listed {
                        let marked = marked.map(of).filter(|_| ours);
                        world.engine.push(on_engine(&id, name, driver, marked.as_ref()));
                    }
                    if let Some(k) = bound.filter(|_| ours) {
                        world.bindings.insert(id, Binding { network: of(k), mirrored: true });
                    }
                }
                world
            },
        )
    }

    proptest! {
        #[test]
        fn from_any_state_the_mirror_comes_to_rest_and_every_named_network_is_there(world in worlds()) {
            let (mut world, before) = (world.clone(), world);
            let mut rounds = 0;
            while { let actions = world.compare(); world.act(actions) } > 0 {
                rounds += 1;
                prop_assert!(rounds <= 4, "still busy after {} rounds: {:?}", rounds, world.compare());
            }
            for foreign in before.engine.iter().filter(|n| n.driver != DRIVER) {
                prop_assert!(world.engine.contains(foreign), "{} was touched", foreign.name);
            }
            for (id, network) in world.networks.iter().filter(|(_, n)| n.name.is_some()) {
                let name = network.display_name();
                let here = world.bindings.values().any(|b| b.network == *id);
                let clash = world.engine.iter().any(|n| n.name == name);
                prop_assert!(here || clash, "{} is missing", name);
            }
            for network in world.engine.iter().filter(|n| n.driver == DRIVER) {
                let of = world.bindings.get(&network.id).map(|b| &b.network);
                prop_assert!(of.is_none_or(|id| world.networks.contains_key(id)), "a copy of nothing stays");
            }
        }
    }
}
