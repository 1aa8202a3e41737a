//! Who is let in: nobody without a valid token, nobody without a valid certificate, nobody who was revoked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kerbside_api::v1alpha1::{Vehicle, VehiclePhase};
use kerbside_testbed::endpoints::SYSTEM_NAMESPACE;
use kerbside_testbed::fleet::car::{Car, Plan};
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// Enrols a car that must be refused; gives what its owner reads.
async fn refused(world: &World, name: &str, token: &str) -> Result<String> {
    let name = format!("{}-{name}", world.name);
    let result = Car::enrol(&world.bed.layout, &world.bed.endpoints, &name, &Plan::default(), token).await;
    Ok(format!("{:#}", result.err().context("the car was enrolled")?))
}

fn secrets(world: &World) -> Api<Secret> {
    Api::namespaced(world.client(), SYSTEM_NAMESPACE)
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
        let now = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24 * 365 * 56);
        let forger = kerbside_link::identity::Ca::generate(now).context("failed to make an authority")?;
        let made = kerbside_link::identity::new_key_and_csr(&[]).context("failed to make a key")?;
        let validity = Duration::from_secs(3600 * 24 * 365 * 5);
        let chain = forger
            .sign_vehicle(&made.csr_der, &car.id, &world.name, validity, now)
            .context("failed to sign")?;
        std::fs::write(car.dir().join("identity/chain.pem"), chain).context("failed to forge")?;
        std::fs::write(car.dir().join("identity/key.pem"), made.key_pem.as_str()).context("failed to forge")?;
        car.start()?;
        let said = world.link_says(&car, "certificate").await;
        car.stop().await?;
        said
    })
    .await
}
