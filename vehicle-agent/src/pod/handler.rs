//! Probes and hooks: what a program is asked, or has done in it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kerbside_core::attempt::probe::Plan;

/// How a container is asked, or what is done in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    /// A command that is run in it.
    Exec(Vec<String>),
    /// A request that it answers with a status from 200 to 399.
    Http(HttpGet),
    /// A port that takes connections.
    Tcp(u16),
    /// A port that speaks the health protocol of gRPC.
    Grpc {
        /// The port.
        port: u16,
        /// Which service is asked for; empty: all of it.
        service: String,
    },
    /// Nothing, for so long.
    Sleep(Duration),
}

/// A request by HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGet {
    /// By TLS, whoever the certificate is of.
    pub tls: bool,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeWork {
    /// When, and what its results mean.
    pub plan: Plan,
    /// How.
    pub handler: Handler,
    /// No answer within this is a failure.
    pub timeout: Duration,
}

/// A probe of a container. `Err`: what is wrong with it.
pub(super) fn probe(probe: Option<&Probe>, container: &Container) -> Result<Option<ProbeWork>, String> {
    let Some(probe) = probe else { return Ok(None) };
    let seconds = |seconds: Option<i32>, otherwise: u64| {
        Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(otherwise))
    };
    let times = |times: Option<i32>, otherwise: u32| {
        times
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .unwrap_or(otherwise)
    };
    let handler = if let Some(exec) = &probe.exec {
        command(exec)
    } else if let Some(http) = &probe.http_get {
        Handler::Http(http_get(http, container)?)
    } else if let Some(tcp) = &probe.tcp_socket {
        nowhere_else(tcp.host.as_deref())?;
        Handler::Tcp(port(&tcp.port, container)?)
    } else if let Some(grpc) = &probe.grpc {
        Handler::Grpc {
            port: port(&IntOrString::Int(grpc.port), container)?,
            service: grpc.service.clone().unwrap_or_default(),
        }
    } else {
        return Err("has none of exec, httpGet, tcpSocket and grpc".to_owned());
    };
    Ok(Some(ProbeWork {
        plan: Plan {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            successes: times(probe.success_threshold, 1),
            failures: times(probe.failure_threshold, 3),
            grace: probe
                .termination_grace_period_seconds
                .and_then(|s| u64::try_from(s).ok())
                .map(Duration::from_secs),
        },
        handler,
        timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
    }))
}

/// A hook of a container. `Err`: what is wrong with it.
pub(super) fn hook(handler: Option<&LifecycleHandler>, container: &Container) -> Result<Option<Handler>, String> {
    let Some(handler) = handler else { return Ok(None) };
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        return Ok(Some(Handler::Sleep(Duration::from_secs(seconds))));
    }
    if let Some(exec) = &handler.exec {
        return Ok(Some(command(exec)));
    }
    match &handler.http_get {
        Some(http) => Ok(Some(Handler::Http(http_get(http, container)?))),
        None => Err("has none of exec, httpGet and sleep".to_owned()),
    }
}

fn command(exec: &ExecAction) -> Handler {
    Handler::Exec(exec.command.clone().unwrap_or_default())
}

fn http_get(http: &HTTPGetAction, container: &Container) -> Result<HttpGet, String> {
    nowhere_else(http.host.as_deref())?;
    let path = http
        .path
        .clone()
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| "/".to_owned());
    let headers = http.http_headers.iter().flatten();
    Ok(HttpGet {
        tls: http.scheme.as_deref() == Some("HTTPS"),
        port: port(&http.port, container)?,
        path: if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        },
        headers: headers
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
    })
}

/// The car asks its Pods, and nobody else for them.
fn nowhere_else(host: Option<&str>) -> Result<(), String> {
    match host {
        None | Some("") => Ok(()),
        Some(host) => Err(format!("has the host {host}; a vehicle asks only the Pod itself")),
    }
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let mut named = ports
                .filter(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port);
            named.next_back().or_else(|| name.parse().ok())
        }
    };
    let number = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0);
    number.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("has the port {number}"),
        IntOrString::String(name) => format!("has the port {name}, which the container does not name"),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn container() -> Container {
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap()
    }

    #[expect(clippy::unwrap_in_result, reason = "the object is written here")]
    fn read(json: Value) -> Result<ProbeWork, String> {
        let read: Probe = serde_json::from_value(json).unwrap();
        probe(Some(&read), &container()).map(|probe| probe.unwrap())
    }

    #[test]
    fn probe_has_the_kubelets_defaults() {
        let read = read(json!({"httpGet": {"port": "web"}})).unwrap();
        assert_eq!((read.plan, read.timeout), (Plan::default(), Duration::from_secs(1)));
        let expected = HttpGet {
            tls: false,
            port: 8080,
            path: "/".to_owned(),
            headers: Vec::new(),
        };
        assert_eq!(read.handler, Handler::Http(expected));
    }

    #[test]
    fn probe_says_when_and_how_it_asks() {
        let read = read(json!({
            "grpc": {"port": 50051, "service": "ready"}, "initialDelaySeconds": 5, "periodSeconds": 2, "timeoutSeconds": 3,
            "successThreshold": 2, "failureThreshold": 4, "terminationGracePeriodSeconds": 7,
        }))
        .unwrap();
        let plan = Plan {
            initial_delay: Duration::from_secs(5),
            period: Duration::from_secs(2),
            successes: 2,
            failures: 4,
            grace: Some(Duration::from_secs(7)),
        };
        assert_eq!((read.plan, read.timeout), (plan, Duration::from_secs(3)));
        let service = "ready".to_owned();
        assert_eq!(read.handler, Handler::Grpc { port: 50051, service });
    }

    #[rstest]
    #[case(json!({}), "none of exec")]
    #[case(json!({"httpGet": {"port": 80, "host": "192.0.2.1"}}), "192.0.2.1")]
    #[case(json!({"tcpSocket": {"port": 80, "host": "localhost"}}), "localhost")]
    #[case(json!({"tcpSocket": {"port": "admin"}}), "admin")]
    #[case(json!({"tcpSocket": {"port": 70000}}), "70000")]
    fn probe_that_cannot_be_asked_says_why(#[case] probe: Value, #[case] says: &str) {
        let message = read(probe).unwrap_err();
        assert!(message.contains(says), "{message}");
    }
}
