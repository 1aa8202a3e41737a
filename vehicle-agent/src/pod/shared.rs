//! What the containers of a Pod share: a host name, name servers, entries of the hosts file, settings of the kernel.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{Engine, security};

/// Shared by all containers of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// The name of the host that they seem to be on.
    pub hostname: String,
    /// How they find names; without it as the car does.
    pub dns: Option<Dns>,
    /// More lines of the hosts file: an address and its names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// Settings of the kernel.
    pub sysctls: BTreeMap<String, String>,
    /// They see each other's processes.
    pub process_namespace: bool,
    /// The group that their volumes belong to.
    pub fs_group: Option<i64>,
}

/// As of `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

/// A host name is no longer.
const HOSTNAME_MAX: usize = 63;

pub(super) fn shared(pod: &Pod, engine: Engine) -> Result<Shared, String> {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let name = spec.hostname.clone().filter(|name| !name.is_empty());
    let mut hostname = name.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    hostname.truncate(HOSTNAME_MAX);
    let hostname = hostname.trim_end_matches(['-', '.']).to_owned();
    if engine == Engine::Wasm {
        return Ok(Shared {
            hostname,
            ..Shared::default()
        });
    }
    let aliases = spec.host_aliases.iter().flatten();
    Ok(Shared {
        hostname,
        dns: dns(spec)?,
        host_aliases: aliases
            .map(|alias| (alias.ip.clone(), alias.hostnames.clone().unwrap_or_default()))
            .collect(),
        sysctls: security::sysctls(spec)?,
        process_namespace: spec.share_process_namespace == Some(true),
        fs_group: spec.security_context.as_ref().and_then(|security| security.fs_group),
    })
}

/// There is no name server of the cluster in a car: `ClusterFirst`, the default, is what it is for a kubelet without one, the car's own.
fn dns(spec: &PodSpec) -> Result<Option<Dns>, String> {
    let config = spec.dns_config.as_ref();
    let own = Dns {
        servers: config.and_then(|c| c.nameservers.clone()).unwrap_or_default(),
        searches: config.and_then(|c| c.searches.clone()).unwrap_or_default(),
        options: config
            .and_then(|c| c.options.as_ref())
            .into_iter()
            .flatten()
            .map(|option| match (&option.name, &option.value) {
                (Some(name), Some(value)) => format!("{name}:{value}"),
                (name, _) => name.clone().unwrap_or_default(),
            })
            .collect(),
    };
    match spec.dns_policy.as_deref() {
        Some("None") if own.servers.is_empty() => Err("dnsPolicy None needs dnsConfig.nameservers".to_owned()),
        Some("None") => Ok(Some(own)),
        _ if own == Dns::default() => Ok(None),
        _ => {
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            Ok(Some(merged(resolv(&text), own)))
        }
    }
}

fn resolv(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            // The last one counts.
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

/// As the kubelet: the Pod's servers and domains after the car's, an option of the Pod in place of the car's of the same name.
fn merged(car: Dns, own: Dns) -> Dns {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    let new: Vec<_> = own.options.iter().map(|option| name(option)).collect();
    let kept = car.options.into_iter().filter(|option| !new.contains(&name(option)));
    let together = |first: Vec<String>, second: Vec<String>| {
        let mut all = first;
        for one in second {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    };
    Dns {
        servers: together(car.servers, own.servers),
        searches: together(car.searches, own.searches),
        options: kept.chain(own.options).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::unwrap_in_result, reason = "the object is written here")]
    fn of(name: &str, spec: &Value) -> Result<Shared, String> {
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        shared(&serde_json::from_value(pod).unwrap(), Engine::Container)
    }

    #[test]
    fn host_is_named_after_the_pod_in_what_a_host_name_may_have() {
        let long = format!("{}-0", "a".repeat(62));
        assert_eq!(of(&long, &json!({"containers": []})).unwrap().hostname, "a".repeat(62));
        let named = of("p", &json!({"containers": [], "hostname": "depot"})).unwrap();
        assert_eq!(named.hostname, "depot");
    }

    #[test]
    fn names_are_found_as_the_pod_says_or_as_the_car_does() {
        assert_eq!(of("p", &json!({"containers": []})).unwrap().dns, None);
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["192.0.2.1"], "searches": ["example"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        }});
        let dns = of("p", &own).unwrap().dns.unwrap();
        assert_eq!(
            (dns.servers, dns.searches),
            (vec!["192.0.2.1".to_owned()], vec!["example".to_owned()])
        );
        assert_eq!(dns.options, ["ndots:2", "edns0"]);
        let nobody = of("p", &json!({"containers": [], "dnsPolicy": "None"})).unwrap_err();
        assert!(nobody.contains("nameservers"), "{nobody}");
    }

    #[test]
    fn what_the_pod_says_of_names_comes_on_top_of_the_cars() {
        let car = resolv("# made by hand\nnameserver 192.0.2.53\nsearch home.example\noptions ndots:1 timeout:3\n");
        let own = Dns {
            servers: vec!["192.0.2.53".to_owned(), "192.0.2.54".to_owned()],
            searches: vec!["work.example".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let dns = merged(car, own);
        assert_eq!(dns.servers, ["192.0.2.53", "192.0.2.54"]);
        assert_eq!(dns.searches, ["home.example", "work.example"]);
        assert_eq!(dns.options, ["timeout:3", "ndots:5"]);
    }
}
