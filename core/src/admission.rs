//! Whether a Pod fits onto a vehicle, said with the kubelet's own reasons.
//!
//! Called by the adapter for every Pod that is bound to a vehicle's Node, before `Run` is sent, and by the car for itself. The
//! scheduler has checked the same on the Node it saw; this check is against what the car gives now. Resources only: the owner's
//! consent, class and runtimes are refusals, and judged elsewhere. A Pod admitted here is never evicted because an offer shrinks.

use serde::{Deserialize, Serialize};

use crate::quantity::{Quantity, QuantityError, Resources, Shortage};

const CPU: &str = "cpu";
const MEMORY: &str = "memory";
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
const PODS: &str = "pods";

/// What a Pod asks for, as its spec says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodRequests {
    /// The requests of each container.
    pub containers: Vec<Resources>,
    /// The requests of each init container, in order.
    pub init_containers: Vec<InitRequests>,
    /// The requests of the Pod as a whole (`spec.resources.requests`), which count instead of its containers' for cpu, memory and huge pages.
    pub pod: Option<Resources>,
    /// The overhead that the runtime class names.
    pub overhead: Resources,
}

/// What an init container asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InitRequests {
    /// Its requests.
    pub requests: Resources,
    /// Whether it goes on beside the containers (`restartPolicy: Always`).
    pub sidecar: bool,
}

/// Why a Pod was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The Pod's `status.reason`: `OutOfcpu`, `OutOfmemory`, `OutOfpods`, `OutOfkerbside.dev/npu`.
    pub reason: String,
    /// The text of the Event; [`Self::status_message`] is the Pod's.
    pub message: String,
}

impl Rejection {
    /// The Pod's `status.message`, as the kubelet words it.
    pub fn status_message(&self) -> String {
        format!("Pod was rejected: {}", self.message)
    }
}

impl PodRequests {
    /// What the Pod takes from the vehicle, as the scheduler and the kubelet count it: its containers together with its sidecars, or the
    /// largest init container with the sidecars before it if that is more; the Pod's own requests instead where given; and the overhead.
    pub fn effective(&self) -> Result<Resources, QuantityError> {
        let mut running = Resources::default();
        for container in &self.containers {
            running.add(container)?;
        }
        let mut sidecars = Resources::default();
        let mut starting = Resources::default();
        for init in &self.init_containers {
            let mut step = sidecars.clone();
            step.add(&init.requests)?;
            if init.sidecar {
                running.add(&init.requests)?;
                sidecars = step.clone();
            }
            starting = starting.max(&step);
        }
        let mut total = running.max(&starting);
        let pod_level = self
            .pod
            .iter()
            .flat_map(|pod| &pod.0)
            .filter(|(resource, _)| at_pod_level(resource));
        total
            .0
            .extend(pod_level.map(|(resource, quantity)| (resource.clone(), *quantity)));
        total.add(&self.overhead)?;
        Ok(total)
    }
}

fn at_pod_level(resource: &str) -> bool {
    resource == CPU || resource == MEMORY || resource.starts_with("hugepages-")
}

/// Admits a Pod with effective `request` beside `pods` others that use `used`, onto a vehicle that gives `allocatable`.
///
/// The kubelet skips an extended resource that its Node does not name, since its device manager refuses the Pod a moment later. A
/// vehicle has no device manager: what it does not name, it does not have.
pub fn admit(allocatable: &Resources, used: &Resources, pods: u32, request: &Resources) -> Result<(), Rejection> {
    let pods = Quantity::from_units(pods.into());
    let one = Quantity::from_units(1);
    let most = allocatable.get(PODS);
    if pods.saturating_add(one) > most {
        return Err(rejection(&Shortage {
            resource: PODS.to_owned(),
            requested: one,
            used: pods,
            capacity: most,
        }));
    }
    // Pods are counted above; a request for `pods` would count them twice.
    let request = Resources(
        request
            .0
            .iter()
            .filter(|(r, _)| *r != PODS)
            .map(|(r, q)| (r.clone(), *q))
            .collect(),
    );
    // The kubelet names the first shortage, in this order.
    let order = |s: &Shortage| {
        [CPU, MEMORY, EPHEMERAL_STORAGE]
            .iter()
            .position(|r| *r == s.resource)
            .unwrap_or(3)
    };
    match allocatable.fits(used, &request) {
        Ok(()) => Ok(()),
        Err(short) => short
            .iter()
            .min_by_key(|s| order(s))
            .map_or(Ok(()), |first| Err(rejection(first))),
    }
}

fn rejection(short: &Shortage) -> Rejection {
    let count = |quantity: Quantity| {
        if short.resource == CPU {
            quantity.millis()
        } else {
            quantity.units()
        }
    };
    Rejection {
        reason: format!("OutOf{}", short.resource),
        message: format!(
            "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
            short.resource,
            count(short.requested),
            count(short.used),
            count(short.capacity)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(pairs: &[(&str, &str)]) -> Resources {
        Resources(
            pairs
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text.parse().unwrap()))
                .collect(),
        )
    }

    fn car() -> Resources {
        resources(&[
            ("cpu", "2"),
            ("memory", "1Gi"),
            ("ephemeral-storage", "1Gi"),
            ("pods", "2"),
            ("kerbside.dev/npu", "1"),
        ])
    }

    #[rstest::rstest]
    #[case(&[("cpu", "2"), ("memory", "1Gi"), ("kerbside.dev/npu", "1")], "")]
    #[case(&[], "")]
    #[case(&[("cpu", "0"), ("kerbside.dev/gpu", "0")], "")]
    #[case(
        &[("cpu", "2001m"), ("memory", "9Gi")],
        "OutOfcpu: Node didn't have enough resource: cpu, requested: 2001, used: 0, capacity: 2000"
    )]
    #[case(
        &[("kerbside.dev/npu", "2"), ("ephemeral-storage", "2Gi"), ("memory", "2Gi")],
        "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"
    )]
    #[case(
        &[("kerbside.dev/npu", "2"), ("ephemeral-storage", "2Gi")],
        "OutOfephemeral-storage: Node didn't have enough resource: ephemeral-storage, requested: 2147483648, used: 0, capacity: 1073741824"
    )]
    #[case(
        &[("kerbside.dev/npu", "2")],
        "OutOfkerbside.dev/npu: Node didn't have enough resource: kerbside.dev/npu, requested: 2, used: 0, capacity: 1"
    )]
    #[case(
        &[("example.com/gpu", "1")],
        "OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 1, used: 0, capacity: 0"
    )]
    fn admission_on_an_empty_car_names_the_first_shortage(#[case] request: &[(&str, &str)], #[case] expected: &str) {
        let said = admit(&car(), &Resources::default(), 0, &resources(request))
            .map_or_else(|r| format!("{}: {}", r.reason, r.message), |()| String::new());
        assert_eq!(said, expected);
    }

    #[test]
    fn admission_of_one_pod_too_many_is_out_of_pods() {
        let rejection = admit(&car(), &Resources::default(), 2, &Resources::default()).unwrap_err();
        assert_eq!(rejection.reason, "OutOfpods");
        assert_eq!(
            rejection.status_message(),
            "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
        );
        assert_eq!(admit(&car(), &Resources::default(), 1, &Resources::default()), Ok(()));
    }

    #[test]
    fn admission_counts_what_is_used_already() {
        let used = resources(&[("cpu", "1500m")]);
        assert_eq!(admit(&car(), &used, 1, &resources(&[("cpu", "500m")])), Ok(()));
        let rejection = admit(&car(), &used, 1, &resources(&[("cpu", "501m")])).unwrap_err();
        assert!(
            rejection
                .message
                .ends_with("requested: 501, used: 1500, capacity: 2000"),
            "{}",
            rejection.message
        );
    }

    fn init(pairs: &[(&str, &str)], sidecar: bool) -> InitRequests {
        InitRequests {
            requests: resources(pairs),
            sidecar,
        }
    }

    #[test]
    fn requests_are_the_larger_of_running_and_starting_and_the_overhead() {
        let pod = PodRequests {
            containers: vec![
                resources(&[("cpu", "1"), ("memory", "100Mi")]),
                resources(&[("cpu", "500m")]),
            ],
            init_containers: vec![
                init(&[("cpu", "3")], false),
                init(&[("cpu", "250m"), ("memory", "50Mi")], true),
                init(&[("memory", "200Mi")], false),
            ],
            pod: None,
            overhead: resources(&[("memory", "10Mi")]),
        };
        assert_eq!(
            pod.effective().unwrap(),
            resources(&[("cpu", "3"), ("memory", "260Mi")])
        );
    }

    #[test]
    fn requests_of_sidecars_run_beside_the_containers() {
        let pod = PodRequests {
            containers: vec![resources(&[("cpu", "1")])],
            init_containers: vec![init(&[("cpu", "1")], true), init(&[("cpu", "1")], true)],
            ..PodRequests::default()
        };
        assert_eq!(pod.effective().unwrap(), resources(&[("cpu", "3")]));
    }

    #[test]
    fn requests_of_the_pod_as_a_whole_count_instead_of_its_containers() {
        let pod = PodRequests {
            containers: vec![resources(&[("cpu", "1"), ("kerbside.dev/npu", "1")])],
            pod: Some(resources(&[("cpu", "4"), ("kerbside.dev/npu", "9")])),
            overhead: resources(&[("cpu", "1")]),
            ..PodRequests::default()
        };
        assert_eq!(
            pod.effective().unwrap(),
            resources(&[("cpu", "5"), ("kerbside.dev/npu", "1")])
        );
    }

    #[test]
    fn requests_too_large_to_add_are_an_error() {
        let most = Resources::from([(CPU, Quantity::from_nanos(i128::MAX, crate::quantity::Format::DecimalSi))]);
        let pod = PodRequests {
            containers: vec![most.clone(), most],
            ..PodRequests::default()
        };
        assert_eq!(
            pod.effective(),
            Err(QuantityError::Overflow {
                resource: CPU.to_owned()
            })
        );
    }
}
