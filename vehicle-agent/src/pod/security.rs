//! Who a container's program is and what it may do: `securityContext` of the Pod and of the container.
//!
//! What must never happen: anything that would give a stranger's program a part of the car. That is refused by its field and never ignored.

use k8s_openapi::api::core::v1::{Capabilities, Container, PodSecurityContext, PodSpec, SeccompProfile};

use crate::runtime::Security;

/// The capabilities that may be asked for: those of the Pod Security Standard "baseline" that make no device.
const MAY_ADD: [&str; 12] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// The kernel settings that belong to a Pod alone, as the kubelet allows them to everybody.
const SYSCTLS: [&str; 8] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];

/// The security of one container; the container's own word goes before the Pod's. `Err`: the field that a vehicle does not give.
pub(super) fn security(container: &Container, spec: &PodSpec) -> Result<Security, String> {
    let none = PodSecurityContext::default();
    let pod = spec.security_context.as_ref().unwrap_or(&none);
    let own = container.security_context.clone().unwrap_or_default();
    for (set, field) in [
        (own.privileged == Some(true), "privileged"),
        (own.allow_privilege_escalation == Some(true), "allowPrivilegeEscalation"),
        (
            own.proc_mount.as_deref().is_some_and(|kind| kind != "Default"),
            "procMount",
        ),
    ] {
        if set {
            return Err(format!("securityContext.{field} is not possible in a vehicle"));
        }
    }
    for profile in [own.seccomp_profile.as_ref(), pod.seccomp_profile.as_ref()] {
        seccomp(profile)?;
    }
    let profiles = [own.app_armor_profile.as_ref(), pod.app_armor_profile.as_ref()];
    if profiles
        .iter()
        .flatten()
        .any(|profile| profile.type_ != "RuntimeDefault")
    {
        return Err(
            "securityContext.appArmorProfile other than RuntimeDefault is not possible in a vehicle".to_owned(),
        );
    }
    let (add, drop) = capabilities(own.capabilities.as_ref())?;
    let groups = pod.supplemental_groups.iter().flatten().chain(&pod.fs_group).copied();
    Ok(Security {
        user: own.run_as_user.or(pod.run_as_user),
        group: own.run_as_group.or(pod.run_as_group),
        groups: groups.collect(),
        non_root: own.run_as_non_root.or(pod.run_as_non_root) == Some(true),
        read_only_root: own.read_only_root_filesystem == Some(true),
        add,
        drop,
    })
}

fn seccomp(profile: Option<&SeccompProfile>) -> Result<(), String> {
    match profile.map(|profile| profile.type_.as_str()) {
        None | Some("RuntimeDefault") => Ok(()),
        Some(other) => Err(format!(
            "securityContext.seccompProfile {other} is not possible in a vehicle, only RuntimeDefault"
        )),
    }
}

fn capabilities(asked: Option<&Capabilities>) -> Result<(Vec<String>, Vec<String>), String> {
    let Some(asked) = asked else {
        return Ok(Default::default());
    };
    let plain = |name: &String| name.trim_start_matches("CAP_").to_uppercase();
    let add: Vec<_> = asked.add.iter().flatten().map(plain).collect();
    if let Some(refused) = add.iter().find(|name| !MAY_ADD.contains(&name.as_str())) {
        return Err(format!(
            "securityContext.capabilities.add: a vehicle does not give {refused}, only {}",
            MAY_ADD.join(", ")
        ));
    }
    Ok((add, asked.drop.iter().flatten().map(plain).collect()))
}

/// The kernel settings of the Pod.
pub(super) fn sysctls(spec: &PodSpec) -> Result<std::collections::BTreeMap<String, String>, String> {
    let asked = spec
        .security_context
        .as_ref()
        .and_then(|security| security.sysctls.as_ref());
    let allowed = asked.into_iter().flatten().map(|sysctl| {
        if SYSCTLS.contains(&sysctl.name.as_str()) {
            Ok((sysctl.name.clone(), sysctl.value.clone()))
        } else {
            Err(format!(
                "securityContext.sysctls: {} is not given to Pods in a vehicle",
                sysctl.name
            ))
        }
    });
    allowed.collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::unwrap_in_result, reason = "the objects are written here")]
    fn of(pod: &Value, own: &Value) -> Result<Security, String> {
        let container = json!({"name": "c", "securityContext": own});
        let spec = json!({"containers": [], "securityContext": pod});
        security(
            &serde_json::from_value(container).unwrap(),
            &serde_json::from_value(spec).unwrap(),
        )
    }

    #[test]
    fn container_says_for_itself_what_its_pod_says_for_all() {
        let pod =
            json!({"runAsUser": 1, "runAsGroup": 2, "runAsNonRoot": true, "fsGroup": 7, "supplementalGroups": [5]});
        let own = json!({"runAsUser": 9, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"], "add": ["CAP_CHOWN"]}});
        let security = of(&pod, &own).unwrap();
        let expected = Security {
            user: Some(9),
            group: Some(2),
            groups: vec![5, 7],
            non_root: true,
            read_only_root: true,
            add: vec!["CHOWN".to_owned()],
            drop: vec!["ALL".to_owned()],
        };
        assert_eq!(security, expected);
        assert_eq!(of(&json!({}), &json!({})).unwrap(), Security::default());
    }

    #[rstest]
    #[case(json!({}), json!({"privileged": true}), "privileged")]
    #[case(json!({}), json!({"allowPrivilegeEscalation": true}), "allowPrivilegeEscalation")]
    #[case(json!({}), json!({"procMount": "Unmasked"}), "procMount")]
    #[case(json!({}), json!({"capabilities": {"add": ["SYS_ADMIN"]}}), "SYS_ADMIN")]
    #[case(json!({}), json!({"capabilities": {"add": ["ALL"]}}), "ALL")]
    #[case(json!({}), json!({"capabilities": {"add": ["net_raw"]}}), "NET_RAW")]
    #[case(json!({"seccompProfile": {"type": "Unconfined"}}), json!({}), "seccompProfile")]
    #[case(json!({}), json!({"appArmorProfile": {"type": "Unconfined"}}), "appArmorProfile")]
    fn what_would_give_away_a_part_of_the_car_is_refused_by_its_field(
        #[case] pod: Value,
        #[case] own: Value,
        #[case] says: &str,
    ) {
        let message = of(&pod, &own).unwrap_err();
        assert!(message.contains(says), "{message}");
    }

    #[test]
    fn only_settings_of_the_pod_alone_are_given() {
        let spec = |name: &str| {
            serde_json::from_value::<PodSpec>(
                json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}),
            )
            .unwrap()
        };
        assert_eq!(
            sysctls(&spec("net.ipv4.tcp_syncookies")).unwrap()["net.ipv4.tcp_syncookies"],
            "1"
        );
        assert!(sysctls(&spec("kernel.msgmax")).unwrap_err().contains("kernel.msgmax"));
    }
}
