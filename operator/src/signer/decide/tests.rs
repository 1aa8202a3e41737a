//! Every grant and every refusal of the signer.

use super::*;
use crate::signer::token::Used;

const ADAPTER: &str = "system:serviceaccount:kerbside-system:kerbside-virtual-kubelet";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn id(n: u8) -> VehicleId {
    VehicleId::from_random([n; 10])
}

fn enrolment() -> Request {
    Request {
        signer: VEHICLE_SIGNER.into(),
        user: ADAPTER.into(),
        usages: vec!["digital signature".into(), "client auth".into()],
        created: at(100),
        key: Ok("cafe".into()),
        sans: vec![],
        token: Some(("t1".into(), "ab12".into())),
        renews: None,
    }
}

fn token() -> Token {
    Token {
        hash: "ab12".into(),
        pool: "overnight".into(),
        labels: [("fleet".into(), "acme".into())].into(),
        expires: at(200),
        used: None,
    }
}

fn found(token: Token) -> Found {
    Found {
        token: Some(Ok(token)),
        pool_exists: true,
        vehicle: None,
    }
}

fn known(n: u8, revoked: bool) -> KnownVehicle {
    KnownVehicle {
        id: id(n),
        pool: "overnight".into(),
        revoked,
        without_agent: false,
    }
}

fn reason(request: &Request, found: &Found) -> &'static str {
    match decide(request, found, ADAPTER) {
        Decision::Deny(refusal) => {
            assert!(refusal.message.len() > 20, "{refusal:?}");
            refusal.reason
        }
        granted => panic!("granted: {granted:?}"),
    }
}

#[test]
fn unused_token_enrols_with_pool_and_labels_of_the_secret() {
    let Decision::Enrol {
        vehicle,
        pool,
        labels,
        key,
    } = decide(&enrolment(), &found(token()), ADAPTER)
    else {
        panic!("not enrolled");
    };
    assert_eq!((vehicle, pool.as_str(), key.as_str()), (None, "overnight", "cafe"));
    assert_eq!(labels["fleet"], "acme");
}

#[test]
fn used_token_with_the_same_key_goes_on_with_the_same_car() {
    let used = Token {
        used: Some(Used {
            by: id(7),
            key: "cafe".into(),
        }),
        ..token()
    };
    let Decision::Enrol { vehicle, .. } = decide(&enrolment(), &found(used), ADAPTER) else {
        panic!("not enrolled")
    };
    assert_eq!(vehicle, Some(id(7)));
}

#[rstest::rstest]
#[case::another_key("beef")]
#[case::marked_by_hand("")]
fn used_token_with_another_key_is_denied(#[case] key: &str) {
    let used = Token {
        used: Some(Used {
            by: id(7),
            key: key.into(),
        }),
        ..token()
    };
    assert_eq!(reason(&enrolment(), &found(used)), "TokenUsed");
}

#[test]
fn used_token_of_a_revoked_car_is_denied() {
    let used = Token {
        used: Some(Used {
            by: id(7),
            key: "cafe".into(),
        }),
        ..token()
    };
    let found = Found {
        vehicle: Some(known(7, true)),
        ..found(used)
    };
    assert_eq!(reason(&enrolment(), &found), "VehicleRevoked");
}

/// Whoever marked it: no agent speaks for a car that a gateway shows.
#[test]
fn used_token_of_a_vehicle_without_an_agent_is_denied() {
    let used = Token {
        used: Some(Used {
            by: id(7),
            key: "cafe".into(),
        }),
        ..token()
    };
    let shown = KnownVehicle {
        without_agent: true,
        ..known(7, false)
    };
    let found = Found {
        vehicle: Some(shown),
        ..found(used)
    };
    assert_eq!(reason(&enrolment(), &found), "VehicleWithoutAgent");
}

#[test]
fn token_that_is_not_there_is_denied() {
    assert_eq!(reason(&enrolment(), &Found::default()), "TokenUnknown");
}

#[test]
fn token_with_another_secret_is_denied() {
    let request = Request {
        token: Some(("t1".into(), "ab13".into())),
        ..enrolment()
    };
    assert_eq!(reason(&request, &found(token())), "TokenInvalid");
}

#[test]
fn token_whose_secret_is_broken_is_denied_with_the_fault() {
    let found = Found {
        token: Some(Err(TokenFault::Missing("pool"))),
        ..Found::default()
    };
    assert_eq!(reason(&enrolment(), &found), "TokenBroken");
}

#[test]
fn token_is_held_against_the_time_of_the_request() {
    let in_time = Request {
        created: at(200),
        ..enrolment()
    };
    assert!(matches!(
        decide(&in_time, &found(token()), ADAPTER),
        Decision::Enrol { .. }
    ));
    let late = Request {
        created: at(201),
        ..enrolment()
    };
    assert_eq!(reason(&late, &found(token())), "TokenExpired");
}

#[test]
fn token_for_a_pool_that_is_not_there_is_denied() {
    assert_eq!(
        reason(
            &enrolment(),
            &Found {
                pool_exists: false,
                ..found(token())
            }
        ),
        "PoolNotFound"
    );
}

#[test]
fn request_of_anybody_but_the_adapter_is_denied() {
    let request = Request {
        user: "mallory".into(),
        ..enrolment()
    };
    assert_eq!(reason(&request, &found(token())), "RequesterNotAllowed");
    let renewal = Request {
        user: "mallory".into(),
        token: None,
        renews: Some(id(1).to_string()),
        ..enrolment()
    };
    assert_eq!(
        reason(
            &renewal,
            &Found {
                vehicle: Some(known(1, false)),
                ..Found::default()
            }
        ),
        "RequesterNotAllowed"
    );
}

#[test]
fn request_that_cannot_be_read_is_denied_with_the_cause() {
    let request = Request {
        key: Err("failed to read a certificate request".into()),
        ..enrolment()
    };
    assert_eq!(reason(&request, &found(token())), "RequestInvalid");
}

#[rstest::rstest]
#[case("server auth")]
#[case("cert sign")]
fn request_for_another_usage_is_denied(#[case] usage: &str) {
    let request = Request {
        usages: vec![usage.into()],
        ..enrolment()
    };
    assert_eq!(reason(&request, &found(token())), "UsageNotAllowed");
}

#[test]
fn request_with_neither_or_both_of_token_and_renewal_is_denied() {
    assert_eq!(
        reason(
            &Request {
                token: None,
                ..enrolment()
            },
            &found(token())
        ),
        "RequestInvalid"
    );
    assert_eq!(
        reason(
            &Request {
                renews: Some(id(1).to_string()),
                ..enrolment()
            },
            &found(token())
        ),
        "RequestInvalid"
    );
}

#[test]
fn known_car_renews_with_the_pool_of_its_vehicle() {
    let request = Request {
        token: None,
        renews: Some(id(1).to_string()),
        ..enrolment()
    };
    let found = Found {
        vehicle: Some(known(1, false)),
        ..Found::default()
    };
    let want = Decision::Renew {
        vehicle: id(1),
        pool: "overnight".into(),
    };
    assert_eq!(decide(&request, &found, ADAPTER), want);
}

#[test]
fn revoked_or_unknown_car_does_not_renew() {
    let request = Request {
        token: None,
        renews: Some(id(1).to_string()),
        ..enrolment()
    };
    assert_eq!(
        reason(
            &request,
            &Found {
                vehicle: Some(known(1, true)),
                ..Found::default()
            }
        ),
        "VehicleRevoked"
    );
    let shown = KnownVehicle {
        without_agent: true,
        ..known(1, false)
    };
    let found = Found {
        vehicle: Some(shown),
        ..Found::default()
    };
    assert_eq!(reason(&request, &found), "VehicleWithoutAgent");
    assert_eq!(reason(&request, &Found::default()), "VehicleUnknown");
}

#[test]
fn adapter_gets_the_names_that_it_asks_for() {
    let request = Request {
        signer: LINK_SERVER_SIGNER.into(),
        usages: vec!["digital signature".into(), "server auth".into()],
        sans: vec!["link.example".into(), "10.0.0.1".into()],
        token: None,
        ..enrolment()
    };
    let want = Decision::Serve {
        sans: request.sans.clone(),
    };
    assert_eq!(decide(&request, &Found::default(), ADAPTER), want);
    assert_eq!(
        reason(
            &Request {
                sans: vec![],
                ..request
            },
            &Found::default()
        ),
        "NamesMissing"
    );
}

#[test]
fn signer_of_somebody_else_is_denied() {
    assert_eq!(
        reason(
            &Request {
                signer: "acme.io/x".into(),
                ..enrolment()
            },
            &Found::default()
        ),
        "SignerUnknown"
    );
}
