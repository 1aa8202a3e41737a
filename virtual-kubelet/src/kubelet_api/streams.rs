//! What takes bytes both ways: exec, attach and port-forward, from kube-apiserver's connection to a tunnel to the car and back.
//!
//! kube-apiserver comes with SPDY/3.1, or, where the Node declares `ExtendWebSocketsToKubelet`, with the client's own WebSocket (`upgrade`). What is
//! said on either is the same five channels (`remote_command`), which the tunnel has too, or streams in pairs, one for each connection to a port
//! (`port_forward`). The car decides first: what it refuses is an HTTP error, and nothing is upgraded.
//!
//! Never: a way in for who may only read. A kubelet lets a WebSocket run programs by the right to *get* `nodes/proxy`, for a WebSocket begins with a GET; here
//! it takes the right to *create*, whatever the request looks like. kube-apiserver's own has all of them.

mod port_forward;
mod remote_command;
mod upgrade;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::ids::VehicleId;
use kerbside_link::proto::{Attach, Exec, OpenTunnel, Streams, open_tunnel};
use kerbside_link::server::SessionHandle;
use serde::Deserialize;

use self::upgrade::Upgrade;
use super::auth::User;
use super::{KubeletApi, Peer, Refused, has_container};
use crate::pod_facts::vehicle_of;

/// Longer names are cut: the car's owner reads them on a small page.
const LONGEST_USER: usize = 256;
/// What runs, and what a car takes in one message.
const LONGEST_COMMAND: usize = 64 << 10;

pub(super) async fn exec(
    State(api): State<Arc<KubeletApi>>,
    Extension(peer): Extension<Peer>,
    Path(wanted): Path<Wanted>,
    query: RawQuery,
    request: Request,
) -> Result<Response, Refused> {
    remote(&api, &peer, &wanted, &query, request, exec_in).await
}

pub(super) async fn attach(
    State(api): State<Arc<KubeletApi>>,
    Extension(peer): Extension<Peer>,
    Path(wanted): Path<Wanted>,
    query: RawQuery,
    request: Request,
) -> Result<Response, Refused> {
    remote(&api, &peer, &wanted, &query, request, attach_to).await
}

pub(super) async fn port_forward(
    State(api): State<Arc<KubeletApi>>,
    Extension(peer): Extension<Peer>,
    Path(wanted): Path<Wanted>,
    request: Request,
) -> Result<Response, Refused> {
    forward(&api, &peer, &wanted, request).await
}

/// What the path names: a container for exec and attach, and a uid where the caller knows it.
#[derive(Deserialize)]
pub(super) struct Wanted {
    namespace: String,
    pod: String,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    container: String,
}

/// A Pod that is there, and somebody who may do this with it.
struct Known {
    pod: Arc<Pod>,
    vehicle: VehicleId,
    user: String,
}

impl Known {
    /// The car, if it is there, too.
    fn reached(self, api: &KubeletApi) -> Result<Found, Refused> {
        let session = api.fleet.get(&self.vehicle).and_then(|h| h.session());
        let session = session.ok_or_else(|| {
            let why = "the vehicle is not connected; try again later";
            Refused(StatusCode::SERVICE_UNAVAILABLE, why.into())
        })?;
        Ok(Found {
            pod: self.pod,
            session,
            user: self.user,
        })
    }
}

/// Where it is, once whoever asks may have it.
struct Found {
    pod: Arc<Pod>,
    session: SessionHandle,
    user: String,
}

impl Found {
    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    fn request(&self, what: open_tunnel::What) -> OpenTunnel {
        OpenTunnel {
            request_id: String::new(),
            uid: self.uid(),
            user: self.user.clone(),
            what: Some(what),
        }
    }
}

async fn known(api: &KubeletApi, peer: &Peer, wanted: &Wanted, headers: &HeaderMap) -> Result<Known, Refused> {
    let pod = api.context().pods.by_name(&wanted.namespace, &wanted.pod);
    let vehicle = pod.as_ref().and_then(|p| vehicle_of(p));
    let node = vehicle.as_ref().map(ToString::to_string).unwrap_or_default();
    // Who may not do this on this node learns nothing, not even whether there is such a Pod.
    let user = api.admit_to(peer, headers, "create", &node, &["proxy"]).await?;
    let missing = || Refused(StatusCode::NOT_FOUND, "pod does not exist".into());
    let (pod, vehicle) = (pod.ok_or_else(missing)?, vehicle.ok_or_else(missing)?);
    if wanted.uid.is_some() && wanted.uid != pod.metadata.uid {
        return Err(missing());
    }
    Ok(Known {
        pod,
        vehicle,
        user: shown(&user),
    })
}

fn shown(user: &User) -> String {
    user.name.chars().take(LONGEST_USER).collect()
}

fn exec_in(container: String, command: Vec<String>, streams: Streams) -> open_tunnel::What {
    open_tunnel::What::Exec(Exec {
        container,
        command,
        streams: Some(streams),
    })
}

fn attach_to(container: String, _: Vec<String>, streams: Streams) -> open_tunnel::What {
    open_tunnel::What::Attach(Attach {
        container,
        streams: Some(streams),
    })
}

async fn remote(
    api: &Arc<KubeletApi>,
    peer: &Peer,
    wanted: &Wanted,
    RawQuery(query): &RawQuery,
    request: Request,
    what: fn(String, Vec<String>, Streams) -> open_tunnel::What,
) -> Result<Response, Refused> {
    let known = known(api, peer, wanted, request.headers()).await?;
    if !has_container(&known.pod, &wanted.container) {
        let why = format!("container not found (\"{}\")", wanted.container);
        return Err(Refused(StatusCode::NOT_FOUND, why));
    }
    let (streams, command) = options(query.as_deref().unwrap_or_default())?;
    let upgrade = Upgrade::remote_command(request).await?;
    let found = known.reached(api)?;
    let what = what(wanted.container.clone(), command, streams);
    let open = api.tunnels.open(found.session.clone(), found.request(what)).await?;
    Ok(upgrade.serve(move |transport| remote_command::run(transport, streams, open)))
}

async fn forward(api: &Arc<KubeletApi>, peer: &Peer, wanted: &Wanted, request: Request) -> Result<Response, Refused> {
    let known = known(api, peer, wanted, request.headers()).await?;
    let upgrade = Upgrade::port_forward(request).await?;
    let found = known.reached(api)?;
    let desk = Arc::clone(&api.tunnels);
    Ok(upgrade.serve(move |transport| port_forward::run(transport, desk, found)))
}

/// As kube-apiserver asks a kubelet: `input`, `output`, `error`, `tty` are 1 or not there, and each `command` is one word of it.
fn options(query: &str) -> Result<(Streams, Vec<String>), Refused> {
    let (mut streams, mut command) = (Streams::default(), Vec::new());
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let on = value == "1";
        match key.as_ref() {
            "input" => streams.stdin = on,
            "output" => streams.stdout = on,
            "error" => streams.stderr = on,
            "tty" => streams.tty = on,
            "command" => command.push(value.into_owned()),
            _ => {}
        }
    }
    // A terminal has one stream for both.
    streams.stderr &= !streams.tty;
    if !(streams.stdin || streams.stdout || streams.stderr) {
        let why = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(Refused(StatusCode::BAD_REQUEST, why.into()));
    }
    if command.iter().map(String::len).sum::<usize>() > LONGEST_COMMAND {
        let why = "the command is longer than 64 KiB";
        return Err(Refused(StatusCode::BAD_REQUEST, why.into()));
    }
    Ok((streams, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::all("input=1&output=1&error=1", (true, true, true, false))]
    #[case::terminal("input=1&output=1&error=1&tty=1", (true, true, false, true))]
    #[case::other_values("input=true&output=1", (false, true, false, false))]
    fn streams_are_those_that_are_asked_for(#[case] query: &str, #[case] expected: (bool, bool, bool, bool)) {
        let (streams, _) = options(query).unwrap();
        assert_eq!((streams.stdin, streams.stdout, streams.stderr, streams.tty), expected);
    }

    #[test]
    fn command_is_word_for_word() {
        let (_, command) = options("command=sh&command=-c&command=echo+%22a+b%22&output=1").unwrap();
        assert_eq!(command, ["sh", "-c", "echo \"a b\""]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_as_a_kubelet_does() {
        let Refused(status, why) = options("command=ls&tty=1").unwrap_err();
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(why.contains("at least 1 of stdin"), "{why}");
        let long = format!("output=1&command={}", "x".repeat(LONGEST_COMMAND + 1));
        assert!(options(&long).is_err());
    }
}
