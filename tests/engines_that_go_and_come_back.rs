//! Engines are stopped, killed and started again: nothing leaks, and what happened meanwhile is caught up with.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;
use weft_e2e::{Pair, address, eventually, fetch, has_network, has_no_network, seen, with_both_engines};
use weft_lab::{EngineVersion, NGINX_PAGE};

with_both_engines!(
    an_engine_that_was_away_catches_up,
    a_stopped_or_killed_engine_leaves_no_endpoint_behind,
    with_live_restore_containers_talk_on_while_their_engine_is_away,
    a_weft_that_was_away_is_found_again_by_docker,
);

/// Longer than weft takes to look at an engine anew, and Docker to look at a plugin.
const CATCH_UP: Duration = Duration::from_secs(20);

fn an_engine_that_was_away_catches_up(version: EngineVersion) {
    let Some(mut pair) = Pair::up_on_one_path("backlog", version) else { return };
    pair.network("old", &["--subnet", "10.61.0.0/24"]);
    pair.engine_mut("h2").unwrap().stop().unwrap();
    pair.a().docker(&["network", "rm", "old"]).unwrap();
    pair.a().docker(&["network", "create", "--driver", "weft", "--subnet", "10.62.0.0/24", "new"]).unwrap();
    pair.engine_mut("h2").unwrap().start().unwrap();
    eventually("the new network on B", CATCH_UP, || has_network(pair.b(), "new"));
    eventually("the old one's end on B", CATCH_UP, || has_no_network(pair.b(), "old"));

    // And what B's operator removed while weft was away is removed everywhere, or comes back: never half.
    pair.a().docker(&["run", "-d", "--net=new", "--name", "web", "nginx"]).unwrap();
    let url = format!("http://{}", address(pair.a(), "web", "new"));
    pair.b().docker(&["run", "-d", "--net=new", "--name", "guest", "box", "sleep", "3600"]).unwrap();
    assert_eq!(fetch(pair.b(), "guest", &url).unwrap(), NGINX_PAGE.trim_end());
}

fn a_stopped_or_killed_engine_leaves_no_endpoint_behind(version: EngineVersion) {
    let Some(mut pair) = Pair::up_on_one_path("leak", version) else { return };
    pair.network("net", &["--subnet", "10.63.0.0/24"]);
    let run = |pair: &Pair, name: &str, policy: &str| {
        // A container's first process does not heed SIGTERM unless it asks for it: an engine that ends would wait ten seconds
        // before it kills it.
        let run = ["run", "-d", "--net=net", "--stop-signal", "KILL", "--restart", policy, "--name", name];
        pair.b().docker(&[&run[..], &["box", "sleep", "3600"]].concat()).unwrap();
    };
    for kill in [false, true] {
        run(&pair, "mortal", "no");
        run(&pair, "eternal", "always");
        assert_eq!(pair.endpoints_of("h2").len(), 2);
        let engine = pair.engine_mut("h2").unwrap();
        let gone = if kill { engine.kill() } else { engine.stop() };
        gone.unwrap();
        engine.start().unwrap();
        let how = if kill { "a kill" } else { "a stop" };
        eventually(&format!("one endpoint after {how}"), CATCH_UP, || {
            let endpoints = pair.endpoints_of("h2");
            seen(endpoints.len() == 1 && endpoints[0]["container"]["name"] == "eternal", endpoints)
        });
        let eternal = address(pair.b(), "eternal", "net");
        pair.a()
            .docker(&["run", "--rm", "--net=net", "box", "ping", "-c", "1", "-W", "2", &eternal])
            .unwrap();
        pair.b().docker(&["rm", "-f", "mortal", "eternal"]).unwrap();
        eventually("no endpoint", Duration::from_secs(5), || {
            seen(pair.endpoints_of("h2").is_empty(), pair.endpoints_of("h2"))
        });
    }
    has_network(pair.b(), "net").unwrap();
    pair.b().docker(&["network", "rm", "net"]).unwrap();
    eventually("the network's end on A", Duration::from_secs(2), || has_no_network(pair.a(), "net"));
    pair.assert_nothing_left();
}

fn with_live_restore_containers_talk_on_while_their_engine_is_away(version: EngineVersion) {
    if !Pair::is_on_its_path(version) {
        return;
    }
    let Some(mut pair) = Pair::up_with("live", version, |options| options.live_restore = true) else {
        return;
    };
    pair.network("net", &["--subnet", "10.64.0.0/24"]);
    pair.b().docker(&["run", "-d", "--net=net", "--name", "web", "nginx"]).unwrap();
    pair.a().docker(&["run", "-d", "--net=net", "--name", "guest", "box", "sleep", "3600"]).unwrap();
    let url = format!("http://{}", address(pair.b(), "web", "net"));
    for kill in [false, true] {
        let engine = pair.engine_mut("h2").unwrap();
        let gone = if kill { engine.kill() } else { engine.stop() };
        gone.unwrap();
        assert_eq!(fetch(pair.a(), "guest", &url).unwrap(), NGINX_PAGE.trim_end(), "while it is away");
        pair.engine_mut("h2").unwrap().start().unwrap();
        assert_eq!(fetch(pair.a(), "guest", &url).unwrap(), NGINX_PAGE.trim_end(), "when it is back");
        let running = pair.b().docker(&["inspect", "-f", "{{.State.Running}}", "web"]).unwrap();
        assert_eq!(running, "true");
        assert_eq!(pair.endpoints_of("h2").len(), 1);
    }
    pair.b().docker(&["rm", "-f", "web"]).unwrap();
    eventually("no endpoint on B", Duration::from_secs(5), || {
        seen(pair.endpoints_of("h2").is_empty(), pair.endpoints_of("h2"))
    });
    pair.a().docker(&["rm", "-f", "guest"]).unwrap();
    pair.a().docker(&["network", "rm", "net"]).unwrap();
    pair.assert_nothing_left();
}

fn a_weft_that_was_away_is_found_again_by_docker(version: EngineVersion) {
    let Some(mut pair) = Pair::up_on_one_path("waway", version) else { return };
    pair.network("net", &["--subnet", "10.65.0.0/24"]);
    pair.a().docker(&["run", "-d", "--net=net", "--name", "web", "nginx"]).unwrap();
    let url = format!("http://{}", address(pair.a(), "web", "net"));
    pair.daemon_mut("h2").unwrap().kill().unwrap();
    pair.a()
        .docker(&["network", "create", "--driver", "weft", "--subnet", "10.66.0.0/24", "meanwhile"])
        .unwrap();
    pair.daemon_mut("h2").unwrap().start().unwrap();
    eventually("what was made meanwhile", CATCH_UP, || has_network(pair.b(), "meanwhile"));
    let page =
        pair.b().docker(&["run", "--rm", "--net=net", "box", "timeout", "5", "wget", "-qO-", &url]).unwrap();
    assert_eq!(page, NGINX_PAGE.trim_end());
    eventually("no endpoint on B", Duration::from_secs(5), || {
        seen(pair.endpoints_of("h2").is_empty(), pair.endpoints_of("h2"))
    });
}
