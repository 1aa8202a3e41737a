//! What containers reach by the owner's policy, how fast, and when not; with a machine beside the car to be reached.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::peer::Peer;
use kerbside_testbed::wait;
use kerbside_testbed::world::{DEADLINE, phase};
use serde_json::{Value, json};

use super::{amend, end, log, played, pod, run, running};
use crate::support;

/// Longer than a piece of what is on its way takes.
const STANDS: Duration = Duration::from_secs(3);

/// What the owner is told of a word of the line on the network: the number before it.
async fn number(car: &Car, word: &str) -> Result<u64> {
    let status = car.owner("status").await?.stdout;
    let line = status.lines().find(|line| line.starts_with("network"));
    let words: Vec<_> = line
        .context("there is a line on the network")?
        .split([' ', ','])
        .collect();
    let at = words.iter().position(|known| *known == word);
    let before = at.with_context(|| format!("no '{word}': {status}"))?.saturating_sub(1);
    let number = words[..=before].iter().rev().find_map(|word| word.parse().ok());
    number.with_context(|| format!("no number before '{word}': {status}"))
}

#[tokio::test]
async fn program_reaches_what_its_owner_allows_and_nothing_else() -> Result<()> {
    run("engine-egress", async |world, car| {
        let peer = Peer::start(&world.bed.layout, 1).await?;
        let Peer {
            near, private, public, ..
        } = &peer;
        // The network has the car's own end of the wire in it, too.
        let network = "10.97.1.0/30";
        amend(world, car, |document| {
            document["egress"] = json!({"allow": ["public", network]});
        })
        .await?;
        let registry = &world.bed.endpoints.registry;
        let allowed = format!("fetch http://{public}/a ; fetch https://{public}/b ; fetch http://{private}/c");
        let forbidden = [
            registry.as_str(),
            "127.0.0.1:80",
            "localhost:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "0.0.0.0:80",
            "0x7f000001:80",
            &format!("{near}:80"),
            &format!("[::ffff:{near}]:80"),
            "169.254.169.254:80",
            "10.0.0.1:80",
            "192.168.1.1:443",
            &format!("{public}:22"),
            "no-such-name.invalid:443",
        ];
        let acts = format!(
            "env HTTP ; env NO_PROXY ; {allowed} ; tunnel {} ; try connect {public}:80",
            forbidden.join(" ")
        );
        let ended = played(world, &pod(world, "reaches", &acts)).await?;
        let said = log(world, "reaches", "main").await?;
        ensure!(phase(&ended) == "Succeeded", "{said} {:?}", ended.status);
        ensure!(
            said.contains("HTTPS_PROXY=http://127.0.0.1:") && said.contains("NO_PROXY=localhost,"),
            "{said}"
        );
        ensure!(said.matches("status 200 ok").count() == 3, "{said}");
        for address in forbidden {
            ensure!(
                said.contains(&format!("tunnel {address} HTTP/1.1 403")),
                "{address}: {said}"
            );
        }
        ensure!(!said.contains("reached"), "{said}");
        ensure!(said.contains("network is unreachable"), "packets lead nowhere: {said}");
        let heard = peer.said()?;
        for path in ["/a", "/b", "/c"] {
            ensure!(
                heard.contains(&format!("asked {path} by Go-http-client")),
                "{path}: {heard}"
            );
        }
        let refused = number(car, "refused").await?;
        ensure!(refused == u64::try_from(forbidden.len())?, "{refused} were refused");

        amend(world, car, |document| document["egress"] = Value::Null).await?;
        let acts = format!("env HTTP ; say told ; try connect {public}:80 {private}:80");
        let ended = played(world, &pod(world, "nothing", &acts)).await?;
        let said = log(world, "nothing", "main").await?;
        ensure!(phase(&ended) == "Succeeded", "{said} {:?}", ended.status);
        ensure!(
            said.starts_with("told\n") && !said.contains("reached"),
            "a Pod has no way out then: {said}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn connections_keep_the_owners_rate_stand_while_the_car_is_paused_and_end_with_the_permission() -> Result<()> {
    run("engine-flow", async |world, car| {
        let peer = Peer::start(&world.bed.layout, 2).await?;
        let rate = json!({"allow": ["public"], "maxBytesPerSecond": "256Ki"});
        amend(world, car, |document| document["egress"] = rate).await?;
        let acts = format!(
            "fetch http://{0}/bytes/524288 ; fetch https://{0}/bytes/524288",
            peer.public
        );
        let ended = played(world, &pod(world, "rate", &acts)).await?;
        let said = log(world, "rate", "main").await?;
        ensure!(phase(&ended) == "Succeeded", "{said} {:?}", ended.status);
        let took = said
            .lines()
            .filter_map(|line| line.strip_prefix("bytes 524288 in ")?.parse::<u64>().ok());
        let took: Vec<_> = took.collect();
        // Two seconds each, but for the burst of a tenth.
        ensure!(
            took.len() == 2 && took.iter().all(|ms| *ms >= 1_800),
            "{took:?}: {said}"
        );

        let endless = format!("fetch http://{}/bytes/1000000000", peer.public);
        world.apply(&pod(world, "stream", &endless)).await?;
        running(world, "stream").await?;
        let before = number(car, "received").await?;
        let more = async |than: u64| {
            wait::until("more to be received", DEADLINE, async || {
                Ok((number(car, "received").await? > than).then_some(()))
            })
            .await
        };
        more(before).await?;
        car.owner("pause").await?;
        let paused = number(car, "received").await?;
        support::for_as_long_as(world, STANDS, "the car to stand still").await?;
        let later = number(car, "received").await?;
        ensure!(
            paused == later,
            "{paused} bytes when the car was paused, {later} after that"
        );
        car.owner("resume").await?;
        more(later).await?;

        amend(world, car, |document| {
            document["egress"] = json!({"allow": ["10.97.9.0/30"]});
        })
        .await?;
        let ended = super::until(world, "stream", "to end", |pod| {
            (phase(pod) == "Failed").then(|| pod.clone())
        })
        .await?;
        ensure!(
            end(&ended, "main").is_some_and(|how| how.exit_code == 1),
            "{:?}",
            ended.status
        );
        let said = log(world, "stream", "main").await?;
        ensure!(said.contains("status 200") && said.contains("unexpected EOF"), "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn hostile_program_takes_its_own_way_out_from_itself_alone() -> Result<()> {
    run("engine-storm", async |world, car| {
        let peer = Peer::start(&world.bed.layout, 3).await?;
        amend(world, car, |document| document["egress"] = json!({"allow": ["public"]})).await?;
        world
            .apply(&pod(world, "storm", "storm 400 ; say over ; sleep 10m"))
            .await?;
        wait::until("the storm to be at its height", DEADLINE, async || {
            let said = log(world, "storm", "main").await.unwrap_or_default();
            Ok(said.contains("over").then_some(()))
        })
        .await?;
        let ended = played(
            world,
            &pod(world, "calm", &format!("fetch http://{}/calm", peer.public)),
        )
        .await?;
        let said = log(world, "calm", "main").await?;
        ensure!(
            phase(&ended) == "Succeeded" && said.contains("status 200 ok"),
            "{said} {:?}",
            ended.status
        );
        Ok(())
    })
    .await
}
