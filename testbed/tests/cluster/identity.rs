//! Who is let in: nobody without a valid token, nobody without a valid certificate, nobody who was revoked. Who is in stays in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kerbside_api::v1alpha1::{Vehicle, VehiclePhase};
use kerbside_core::clock::Clock;
use kerbside_k8s::csr::RENEWS;
use kerbside_link::SystemClock;
use kerbside_link::identity::{self, Ca, VEHICLE_VALIDITY};
use kerbside_testbed::endpoints::SYSTEM_NAMESPACE;
use kerbside_testbed::fleet::car::{Car, IDENTITY, Plan};
use kerbside_testbed::layout;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support;

/// Enrols a car that must be refused; gives what its owner reads.
async fn refused(world: &World, name: &str, token: &str) -> Result<String> {
    let name = format!("{}-{name}", world.name);
    let result = Car::enrol(&world.bed.layout, &world.bed.endpoints, &name, &Plan::default(), token).await;
    Ok(format!("{:#}", result.err().context("the car was enrolled")?))
}

fn secrets(world: &World) -> Api<Secret> {
    Api::namespaced(world.client(), SYSTEM_NAMESPACE)
}

/// Makes this the car's identity.
fn give(car: &Car, key: &str, chain: &str) -> Result<()> {
    let file = car.dir().join(IDENTITY);
    let mut kept: Value = layout::read_json(&file)?;
    kept["key"] = key.into();
    kept["chain"] = chain.into();
    layout::write_json(&file, &kept)
}

/// The public half of a token.
fn id(token: &str) -> Result<&str> {
    token.split('.').nth(1).context("a token has four parts")
}

#[tokio::test]
async fn token_that_was_used_enrols_no_second_car() -> Result<()> {
    world::run("usedtoken", async |world| {
        let token = world.bed.token(&world.name).await?;
        let name = format!("{}-first", world.name);
        Car::enrol(&world.bed.layout, &world.bed.endpoints, &name, &Plan::default(), &token).await?;
        let words = refused(world, "second", &token).await?;
        ensure!(
            words.contains("used"),
            "the refusal does not say that the token was used: {words}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn token_that_has_expired_says_so() -> Result<()> {
    world::run("oldtoken", async |world| {
        let token = world.bed.token(&world.name).await?;
        let past = json!({"stringData": {"expires": "2020-01-01T00:00:00Z"}});
        let name = format!("kerbside-token-{}", id(&token)?);
        secrets(world)
            .patch(&name, &PatchParams::default(), &Patch::Merge(past))
            .await
            .context("failed to let the token expire")?;
        let words = refused(world, "late", &token).await?;
        ensure!(words.contains("expired"), "{words}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn token_that_nobody_gave_out_is_refused() -> Result<()> {
    world::run("notoken", async |world| {
        let token = world.bed.token(&world.name).await?;
        let real = id(&token)?;
        let other: String = real.chars().rev().collect();
        let words = refused(world, "guess", &token.replace(real, &other)).await?;
        ensure!(words.contains("token"), "{words}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn token_with_another_cas_hash_trusts_nobody() -> Result<()> {
    world::run("foreignca", async |world| {
        let token = world.bed.token(&world.name).await?;
        let (rest, _) = token.rsplit_once('.').context("a token has four parts")?;
        let words = refused(world, "wary", &format!("{rest}.{}", "0".repeat(64))).await?;
        ensure!(
            words.contains("trust"),
            "the car does not say that it trusts nobody: {words}"
        );
        let used = secrets(world).get(&format!("kerbside-token-{}", id(&token)?)).await?;
        ensure!(
            !used.data.unwrap_or_default().contains_key("usedBy"),
            "the token was not shown to a stranger"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn revoked_car_is_cut_off_within_ten_seconds_and_stays_out() -> Result<()> {
    world::run("revoke", async |world| {
        let car = world.cars(1).await?.remove(0);
        world.bed.plugin.run(&["revoke", car.id.as_str()], "").await?;
        let api: Api<Vehicle> = Api::all(world.client());
        let away = |v: Option<&Vehicle>| (v?.status.as_ref()?.phase == VehiclePhase::Away).then_some(());
        wait::object(
            &api,
            car.id.as_str(),
            "the revoked car to be away",
            Duration::from_secs(10),
            away,
        )
        .await?;
        world.link_says(&car, "revoked").await?;
        // A new start does not help.
        car.crash().await?;
        car.start()?;
        world.link_says(&car, "revoked").await
    })
    .await
}

#[tokio::test]
async fn car_with_a_certificate_of_another_authority_is_not_let_in() -> Result<()> {
    world::run("foreigncert", async |world| {
        let plan = Plan::default();
        let car = world
            .bed
            .car(&format!("{}-forged", world.name), &world.name, &plan)
            .await?;
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24 * 365 * 56);
        let forger = Ca::generate(now).context("failed to make an authority")?;
        let made = identity::new_key_and_csr(&[]).context("failed to make a key")?;
        let validity = Duration::from_secs(3600 * 24 * 365 * 5);
        let chain = forger
            .sign_vehicle(&made.csr_der, &car.id, &world.name, validity, now)
            .context("failed to sign")?;
        give(&car, &made.key_pem, &chain)?;
        car.start()?;
        let said = world.link_says(&car, "certificate").await;
        car.stop().await?;
        said
    })
    .await
}

/// The link's own authority, with the key that the operator signs with.
pub(crate) async fn authority(world: &World) -> Result<Ca> {
    let secret = secrets(world).get("kerbside-link-ca").await;
    let data = secret.context("failed to read the link's CA")?.data.unwrap_or_default();
    let text = |key: &str| {
        let bytes = data.get(key).with_context(|| format!("the CA's Secret has no {key}"))?;
        std::str::from_utf8(&bytes.0).with_context(|| format!("{key} of the CA's Secret is not text"))
    };
    Ca::from_pem(text("tls.crt")?, text("tls.key")?).context("the CA's Secret does not hold a CA")
}

/// The end of the certificate that the car holds.
pub(crate) fn end_of_certificate(car: &Car) -> Result<Timestamp> {
    let kept: Value = layout::read_json(&car.dir().join(IDENTITY))?;
    let pem = kept["chain"].as_str().context("the car holds no chain")?;
    let chain = identity::chain_from_pem(pem).context("the car holds no certificates")?;
    let own = chain.first().context("the car's chain is empty")?;
    identity::not_after(own).context("failed to read the car's certificate")
}

/// Gives the car the certificate that it would hold if the operator had signed it almost a week ago, this long before its end;
/// gives that end.
pub(crate) async fn age(world: &World, car: &Car, left: Duration) -> Result<Timestamp> {
    let made = identity::new_key_and_csr(&[]).context("failed to make a key")?;
    let signed_at = SystemClock.wall() + left - VEHICLE_VALIDITY;
    let chain = authority(world)
        .await?
        .sign_vehicle(&made.csr_der, &car.id, &world.name, VEHICLE_VALIDITY, signed_at)
        .context("failed to sign")?;
    give(car, &made.key_pem, &chain)?;
    end_of_certificate(car)
}

/// Waits until the car has connected more often than `before`; gives how often.
async fn connected(world: &World, car: &Car, before: u64) -> Result<u64> {
    let api: Api<Vehicle> = Api::all(world.client());
    let what = format!("more than {before} connections of {}", car.name);
    wait::object(&api, car.id.as_str(), &what, world::DEADLINE, |v| {
        let epoch = v?.status.as_ref()?.connection.as_ref()?.epoch;
        (epoch > before).then_some(epoch)
    })
    .await
}

/// Whether the operator has signed a request of the adapter's to renew the car's certificate.
async fn renewal_is_signed(world: &World, car: &Car) -> Result<bool> {
    let api: Api<CertificateSigningRequest> = Api::all(world.client());
    let all = api.list(&ListParams::default()).await;
    let all = all.context("failed to list the certificate requests")?;
    Ok(all.items.iter().any(|request| {
        let signed = request.status.as_ref().and_then(|s| s.certificate.as_ref());
        let renews = request.annotations().get(RENEWS);
        renews.is_some_and(|id| id == car.id.as_str()) && signed.is_some()
    }))
}

#[tokio::test]
async fn certificate_is_renewed_before_it_ends_and_the_car_works_on_when_it_has_ended() -> Result<()> {
    world::run("renewal", async |world| {
        let car = world.cars(1).await?.remove(0);
        car.stop().await?;
        let before = connected(world, &car, 0).await?;
        let end = age(world, &car, Duration::from_secs(25)).await?;
        car.start()?;
        wait::until("a new certificate in the car", world::DEADLINE, async || {
            Ok((end_of_certificate(&car)? > end).then_some(()))
        })
        .await?;
        ensure!(renewal_is_signed(world, &car).await?, "it was asked for and signed");
        // Once with the old certificate, and once more with the new one.
        let moved = connected(world, &car, before + 1).await?;
        ensure!(
            SystemClock.wall() < end,
            "the car moved only when the old one had ended"
        );
        support::past(world, end, "the old certificate to end").await?;
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        let status = world.complete("hello", world::DEADLINE).await?;
        ensure!(
            status.succeeded == 3 && status.disruptions.is_empty() && status.failed == 0,
            "{status:?}"
        );
        // What it wrote down is what it begins with after a power cut.
        car.crash().await?;
        car.start()?;
        connected(world, &car, moved).await.map(drop)
    })
    .await
}
