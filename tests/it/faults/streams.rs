//! What clients without a WebSocket say to another instance than the one that
//! holds their stream, while the way between the two fails.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::json;

use super::{FAST, gateway};
use crate::support::{
    eventually,
    proxy::{Direction, FaultProxy, Which},
    redis::RedisServer,
    stream::{StreamClient, emulate},
    until,
};

/// Whatever is acknowledged has been heard, and what is not is said to be
/// uncertain. Here the way there fails, the ears of the other end, and the way
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_elsewhere_is_acknowledged_or_owned_up_to() {
    let redis = RedisServer::start().await;
    let (mut proxies, mut instances) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let proxy = FaultProxy::start(redis.address()).await;
        instances.push(gateway(&format!("url = \"{}\"", proxy.url()), name, FAST).await);
        proxies.push(proxy);
    }
    let [here, there] = [0, 1].map(|n| instances[n].gateway.address());
    let mut client = StreamClient::lines(there, &json!({})).await;
    let (node, session) = (client.node.clone(), client.session.clone());
    let say = |id: u32| {
        let data = json!({ "id": id, "presence_stats": { "channel": "live:1" } }).to_string();
        let body = json!({ "node": node, "session": session, "data": data }).to_string();
        async move { (id, emulate(here, &body).await) }
    };
    // The first hello of an instance may still be under way.
    eventually("they know each other", || instances.iter().all(|it| it.metric("wayleave_instances") == 2.0)).await;
    let (mut id, mut acknowledged, mut lost) = (1, BTreeSet::new(), 0);
    let faults = [
        (1, Which::Subscribers, Direction::ToClient),
        (0, Which::Subscribers, Direction::ToClient),
        (0, Which::Others, Direction::ToServer),
    ];
    for (whose, which, direction) in faults {
        id += 1;
        assert_eq!(say(id).await, (id, 204));
        acknowledged.insert(id);
        proxies[whose].freeze_only(which, direction);
        let said: Vec<_> = join_all((0..5).map(|n| say(id + 1 + n))).await;
        id += 5;
        assert!(said.iter().all(|(_, status)| *status == 503), "{whose} {which:?} {direction:?}: {said:?}");
        lost += said.len();
        proxies[whose].heal();
        until("it works again", async || {
            id += 1;
            let (_, status) = say(id).await;
            // Until they have found each other again there may be no such instance.
            assert!([204, 404, 503].contains(&status), "{status}");
            if status == 204 {
                acknowledged.insert(id);
            }
            status == 204
        })
        .await;
    }
    let mut heard = BTreeSet::new();
    while !acknowledged.is_subset(&heard) {
        let message = client.hear().await;
        let id = message["id"].as_u64().unwrap_or_else(|| panic!("{message}; {acknowledged:?} {heard:?}"));
        assert!(heard.insert(u32::try_from(id).unwrap()), "twice: {message}");
    }
    println!("{} of {id} acknowledged and heard; {lost} answered 503", acknowledged.len());
    // One that is silent for long enough is named as what it is.
    proxies[1].cut();
    until("there is no such instance", async || say(id + 1).await.1 == 404).await;
}
