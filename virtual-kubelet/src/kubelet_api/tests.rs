//! Who gets what from the port, over a mocked API server; no sockets.

use super::*;
use crate::testing::{World, list, respond};
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u-1"},
        "spec": {"nodeName": "car-aaaaaaaaaaaaaaaa", "containers": [{"name": "main"}], "ephemeralContainers": [{"name": "look"}]},
        "status": {"phase": "Running"},
    }))
    .unwrap()
}

fn ann() -> Peer {
    Peer(Some(User {
        name: "ann".into(),
        ..User::default()
    }))
}

async fn get(context: &Arc<Context>, peer: Peer, path: &str) -> (u16, String) {
    send(context, peer, Request::builder().uri(path)).await
}

async fn send(context: &Arc<Context>, peer: Peer, request: axum::http::request::Builder) -> (u16, String) {
    list(&context.pods, vec![pod()]);
    let api = Arc::new(KubeletApi {
        fleet: Fleet::new(Arc::clone(context), CancellationToken::new()),
        desk: Arc::default(),
        tunnels: Arc::default(),
        auth: Auth::new(context.client.clone(), Arc::clone(&context.clock)),
        stored: StoredLogs::new(context.store.clone(), Arc::clone(&context.clock)),
    });
    let routes = routes(api).layer(Extension(peer));
    let request = request.body(Body::empty()).unwrap();
    let response = routes.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Answers every review that comes with this.
async fn reviewing(world: &mut crate::testing::Server, allowed: bool, times: usize) -> Vec<serde_json::Value> {
    let mut asked = Vec::new();
    for _ in 0..times {
        asked.push(
            respond(world, 201, json!({"spec": {}, "status": {"allowed": allowed}}))
                .await
                .2,
        );
    }
    asked
}

#[rstest::rstest]
#[case("/healthz")]
#[case("/pods")]
#[case("/containerLogs/ns/p/main")]
#[case("/exec/ns/p/main")]
#[tokio::test]
async fn request_of_nobody_is_unauthorized(#[case] path: &str) {
    let world = World::new();
    assert_eq!(get(&world.context, Peer(None), path).await.0, 401);
}

#[rstest::rstest]
#[case::that_may(true, true, 200)]
#[case::that_may_not(true, false, 403)]
#[case::that_is_nobodys(false, true, 401)]
#[tokio::test]
async fn token_gets_what_its_owner_may(#[case] known: bool, #[case] allowed: bool, #[case] code: u16) {
    let World {
        context, mut server, ..
    } = World::new();
    let request = Request::builder().uri("/pods").header("authorization", "Bearer secret");
    let owner = json!({"spec": {}, "status": {"authenticated": known, "user": {"username": "ann", "groups": ["dev"]}}});
    let reviews = async {
        let (_, path, asked) = respond(&mut server, 201, owner).await;
        assert_eq!(path, "/apis/authentication.k8s.io/v1/tokenreviews");
        assert_eq!(asked["spec"]["token"], "secret");
        if !known {
            return;
        }
        for asked in reviewing(&mut server, allowed, if allowed { 1 } else { 2 }).await {
            assert_eq!(
                (&asked["spec"]["user"], &asked["spec"]["groups"]),
                (&json!("ann"), &json!(["dev"]))
            );
        }
    };
    let (answer, ()) = futures::join!(send(&context, Peer(None), request), reviews);
    assert_eq!(answer.0, code, "{}", answer.1);
    assert_eq!(answer.1.contains("\"items\""), code == 200);
}

#[tokio::test]
async fn log_of_a_node_that_one_may_not_read_is_forbidden_and_tells_nothing() {
    let mut world = World::new();
    for path in ["/containerLogs/ns/p/main", "/containerLogs/ns/missing/main"] {
        let (answer, asked) = futures::join!(get(&world.context, ann(), path), reviewing(&mut world.server, false, 1));
        assert_eq!(answer.0, 403, "{}", answer.1);
        assert_eq!(asked[0]["spec"]["resourceAttributes"]["subresource"], "proxy");
    }
}

#[rstest::rstest]
#[case::no_pod("/containerLogs/ns/missing/main", 404, "pod \"missing\" not found")]
#[case::no_container("/containerLogs/ns/p/side", 404, "container \"side\" not found")]
#[case::bad_option("/containerLogs/ns/p/main?tailLines=x", 400, "tailLines=x")]
#[case::senseless_option("/containerLogs/ns/p/main?tailLines=-1", 422, "tailLines: must be 0 or more")]
#[case::added("/containerLogs/ns/p/look", 503, "the vehicle is not connected")]
#[case::car_away("/containerLogs/ns/p/main", 503, "the vehicle is not connected")]
#[case::enters_no_pod("/exec/ns/missing/main?output=1&command=ls", 404, "pod does not exist")]
#[case::enters_a_pod_of_before("/exec/ns/p/u-0/main?output=1&command=ls", 404, "pod does not exist")]
#[case::enters_no_container("/exec/ns/p/side?output=1&command=ls", 404, "container not found (\"side\")")]
#[case::enters_without_streams("/attach/ns/p/main", 400, "at least 1 of stdin, stdout, stderr")]
#[case::enters_without_upgrade("/exec/ns/p/u-1/main?output=1&command=ls", 400, "unable to upgrade")]
#[case::joins_without_upgrade("/attach/ns/p/look?output=1", 400, "unable to upgrade")]
#[case::port_of_no_pod("/portForward/ns/missing", 404, "pod does not exist")]
#[case::port_without_upgrade("/portForward/ns/p", 400, "unable to upgrade")]
#[tokio::test]
async fn request_that_cannot_be_met_says_why(#[case] path: &str, #[case] status: u16, #[case] says: &str) {
    let mut world = World::new();
    let ((code, text), _) = futures::join!(get(&world.context, ann(), path), reviewing(&mut world.server, true, 1));
    assert_eq!(code, status, "{text}");
    assert!(text.contains(says), "{text}");
}

/// A WebSocket begins with a GET, and whoever may read a node may not run programs on it.
#[rstest::rstest]
#[case("/exec/ns/p/main?output=1&command=ls")]
#[case("/exec/ns/missing/main?output=1&command=ls")]
#[case("/attach/ns/p/main?output=1")]
#[case("/portForward/ns/p")]
#[case("/portForward/ns/p/u-1")]
#[tokio::test]
async fn nobody_enters_without_the_right_to_create_nodes_proxy(#[case] path: &str) {
    let mut world = World::new();
    let request = Request::builder()
        .uri(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    let (answer, asked) = futures::join!(
        send(&world.context, ann(), request),
        reviewing(&mut world.server, false, 1)
    );
    assert_eq!(answer.0, 403, "{}", answer.1);
    let attributes = &asked[0]["spec"]["resourceAttributes"];
    assert_eq!(
        (&attributes["verb"], &attributes["resource"], &attributes["subresource"]),
        (&json!("create"), &json!("nodes"), &json!("proxy"))
    );
}

#[rstest::rstest]
#[case::what_is_spoken_here("v4.channel.k8s.io", 503, "the vehicle is not connected")]
#[case::something_older("v3.channel.k8s.io", 403, "the client offers v3.channel.k8s.io")]
#[case::nothing("", 400, "X-Stream-Protocol-Version is missing or empty")]
#[tokio::test]
async fn spdy_is_upgraded_for_what_is_spoken_here_alone(
    #[case] protocol: &str,
    #[case] status: u16,
    #[case] says: &str,
) {
    let mut world = World::new();
    // One that never comes to be: it is asked for only when the car has said yes.
    let upgrade = hyper::upgrade::on(Request::new(Body::empty()));
    let request = Request::builder()
        .method("POST")
        .uri("/exec/ns/p/main?output=1&command=ls")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", protocol)
        .extension(upgrade);
    let ((code, text), _) = futures::join!(
        send(&world.context, ann(), request),
        reviewing(&mut world.server, true, 1)
    );
    assert_eq!(code, status, "{text}");
    assert!(text.contains(says), "{text}");
}

#[test]
fn no_of_a_car_is_told_as_one() {
    let Refused(status, why) = Fault::denied("the owner does not allow it").into();
    assert_eq!(
        (status, why.as_str()),
        (StatusCode::FORBIDDEN, "the owner does not allow it")
    );
}

#[tokio::test]
async fn pods_need_the_fine_right_or_the_coarse_one() {
    let mut world = World::new();
    let (answer, asked) = futures::join!(
        get(&world.context, ann(), "/pods"),
        reviewing(&mut world.server, false, 2)
    );
    assert_eq!(answer.0, 403);
    let subresources: Vec<_> = asked
        .iter()
        .map(|a| a["spec"]["resourceAttributes"]["subresource"].clone())
        .collect();
    assert_eq!(subresources, ["pods", "proxy"]);
    let (answer, _) = futures::join!(
        get(&world.context, ann(), "/pods"),
        reviewing(&mut world.server, true, 1)
    );
    assert_eq!(answer.0, 200);
    let listed: serde_json::Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!(listed["items"][0]["metadata"]["name"], "p");
}
