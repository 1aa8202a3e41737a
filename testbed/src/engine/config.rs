//! What a container engine of the testbed is told: pure, one configuration for each kind, and the network that it gives to Pods.
//!
//! Called by `engine` alone. What must never happen: a path or a device that two engines share, or a way from a Pod to this machine.

use std::path::Path;

use serde_json::{Value, json};

use super::Kind;

/// What holds the network of a Pod.
pub(super) const PAUSE: &str = "localhost/kerbside/pause:1";

/// Where an engine finds what it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// Its own directory.
    pub(super) dir: &'a Path,
    /// What it answers on.
    pub(super) socket: &'a Path,
    /// The folder of the network plugins.
    pub(super) cni: &'a Path,
    /// The folder of runc.
    pub(super) runc: &'a Path,
}

/// The network's plugins: a bridge that has no address, ports that do not see each other, and addresses that are written down in `dir`.
pub(super) fn network(kind: Kind, bridge: &str, dir: &Path) -> Value {
    // Each has half of what tests know a Pod's address by.
    let subnet = match kind {
        Kind::Pinned => "10.98.0.0/17",
        Kind::Debian => "10.98.128.0/17",
    };
    let plugin = json!({
        "type": "bridge", "bridge": bridge, "isGateway": false, "portIsolation": true,
        "ipam": {"type": "host-local", "dataDir": dir.join("addresses"), "ranges": [[{"subnet": subnet}]]},
    });
    json!({"cniVersion": "1.0.0", "name": "vehicle", "plugins": [plugin]})
}

/// What differs between the versions of the format.
struct Format {
    version: u8,
    /// What serves CRI.
    cri: &'static str,
    /// The line that names the sandbox's image, with the table that it is in.
    sandbox: String,
    /// The folder of the network plugins.
    plugins: String,
}

/// Version 3, of containerd 2.
fn third(places: Places<'_>) -> Format {
    Format {
        version: 3,
        cri: "io.containerd.cri.v1.runtime",
        sandbox: format!(
            "[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']"
        ),
        plugins: format!("bin_dirs = ['{}']", places.cni.display()),
    }
}

/// Version 2, of containerd 1.6 and 1.7. Nothing is said of registries: one on the loopback is asked by plain HTTP anyway.
fn second(places: Places<'_>) -> Format {
    Format {
        version: 2,
        cri: "io.containerd.grpc.v1.cri",
        sandbox: format!(
            "[plugins.'io.containerd.internal.v1.opt']
path = '{}/opt'
[plugins.'io.containerd.grpc.v1.cri']
sandbox_image = '{PAUSE}'",
            places.dir.display()
        ),
        plugins: format!("bin_dir = '{}'", places.cni.display()),
    }
}

/// The configuration file. Without restrict_oom_score_adj runc cannot start a sandbox where the machine itself is confined.
pub(super) fn configuration(kind: Kind, places: Places<'_>) -> String {
    let Format {
        version,
        cri,
        sandbox,
        plugins,
    } = match kind {
        Kind::Pinned => third(places),
        Kind::Debian => second(places),
    };
    format!(
        "version = {version}
root = '{dir}/root'
state = '{dir}/state'
[grpc]
address = '{socket}'
{sandbox}
restrict_oom_score_adj = true
[plugins.'{cri}'.cni]
{plugins}
conf_dir = '{dir}/net.d'
[plugins.'{cri}'.containerd]
default_runtime_name = 'runc'
[plugins.'{cri}'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'{cri}'.containerd.runtimes.runc.options]
BinaryName = '{runc}/runc'
SystemdCgroup = false
",
        dir = places.dir.display(),
        socket = places.socket.display(),
        runc = places.runc.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: Kind, dir: &str) -> String {
        let dir = Path::new(dir);
        configuration(
            kind,
            Places {
                dir,
                socket: &dir.join("engine.sock"),
                cni: Path::new("/plugins"),
                runc: Path::new("/tools"),
            },
        )
    }

    #[test]
    fn each_engine_is_told_its_own_places_in_its_own_words() {
        let (third, second) = (text(Kind::Pinned, "/bed/one"), text(Kind::Debian, "/bed/two"));
        assert!(third.starts_with("version = 3\n") && second.starts_with("version = 2\n"));
        assert!(third.contains("bin_dirs = ['/plugins']") && second.contains("bin_dir = '/plugins'"));
        assert!(third.contains("sandbox = 'localhost/") && second.contains("sandbox_image = 'localhost/"));
        for (text, dir) in [(&third, "/bed/one"), (&second, "/bed/two")] {
            for place in ["root", "state", "engine.sock", "net.d"] {
                assert!(text.contains(&format!("'{dir}/{place}'")), "{place} in {text}");
            }
            assert!(text.contains("BinaryName = '/tools/runc'"), "{text}");
            assert!(text.contains("restrict_oom_score_adj = true"), "{text}");
        }
        assert!(!third.contains("/bed/two") && !second.contains("/bed/one"));
    }

    #[test]
    fn network_leads_nowhere_and_its_addresses_are_of_one_engine() {
        let networks = Kind::ALL.map(|kind| network(kind, "kb0", Path::new("/bed/one")));
        for network in &networks {
            let plugin = &network["plugins"][0];
            assert_eq!(
                (&plugin["isGateway"], &plugin["portIsolation"]),
                (&false.into(), &true.into())
            );
            assert!(plugin["ipam"].get("routes").is_none(), "{plugin}");
            assert_eq!(plugin["ipam"]["dataDir"], "/bed/one/addresses");
        }
        let subnet = |network: &Value| network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].clone();
        assert_ne!(subnet(&networks[0]), subnet(&networks[1]));
    }
}
