//! The owner's page in a real browser, as on a small phone, steered by keys alone, before a real agent.

use anyhow::{Context, Result, ensure};
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_testbed::browser::{self, Browser, Key};
use kerbside_testbed::fleet::car::{Car, Plan};
use kerbside_testbed::world::{self, World};
use kerbside_testbed::{ports, wait};
use serde_json::json;

/// The narrowest phone that people have.
const WIDTH: u32 = 320;

/// Nobody.
const OTHER: &str = "127.0.0.2";

/// A car with a page, and a phone that looks at it.
struct Phone {
    browser: Browser,
    car: Car,
    origin: String,
}

impl Phone {
    async fn take(world: &mut World, program: &std::path::Path) -> Result<Self> {
        let port = ports::free()?;
        let plan = Plan {
            page: Some(port),
            ..Plan::default()
        };
        let car = world.car(&plan).await?;
        let dir = world.bed.layout.dir(&format!("browsers/{}", world.name))?;
        let mut browser = Browser::start(program, &dir, WIDTH, 640).await?;
        let origin = format!("http://127.0.0.1:{port}");
        browser.open(&format!("{origin}/")).await?;
        let mut phone = Self { browser, car, origin };
        phone.asks_for_a_code().await?;
        Ok(phone)
    }

    async fn asks_for_a_code(&mut self) -> Result<()> {
        let door = "document.getElementById('door')?.hidden === false";
        self.browser.until("the form for a code", door).await
    }

    /// What becomes of a request to somebody else: this machine too, where nobody listens.
    async fn asks_another(&mut self) -> Result<()> {
        let other = self.origin.replace("127.0.0.1", OTHER);
        let ask = format!("fetch('{other}/').then(() => 'came', () => 'refused')");
        let became = self.browser.evaluate(&ask).await?;
        ensure!(became == "refused", "{became}");
        Ok(())
    }

    /// Among these, those that are not the car's.
    fn others<'a>(&self, urls: &'a [String]) -> Vec<&'a String> {
        let own = format!("{}/", self.origin);
        urls.iter().filter(|url| !url.starts_with(&own)).collect()
    }

    async fn says(&mut self, id: &str, words: &str) -> Result<()> {
        let expression = format!("document.getElementById('{id}').textContent.includes({})", json!(words));
        self.browser
            .until(&format!("#{id} to say '{words}'"), &expression)
            .await
    }

    async fn has_focus(&mut self, id: &str) -> Result<()> {
        let expression = format!("document.activeElement.id === '{id}'");
        self.browser
            .until(&format!("the focus to be at #{id}"), &expression)
            .await
    }

    async fn press(&mut self, id: &str, key: Key) -> Result<()> {
        self.browser.tab_to(id).await?;
        self.browser.press(key).await
    }

    /// What the command line in the car says, too.
    async fn car_says(&self, words: &[&str]) -> Result<()> {
        wait::until_ok(&format!("the car to say {words:?}"), world::DEADLINE, async || {
            let status = self.car.owner("status").await?.stdout;
            ensure!(words.iter().all(|word| status.contains(word)), "{status}");
            Ok(())
        })
        .await
    }

    async fn fits(&mut self) -> Result<()> {
        let width = self.browser.evaluate("document.documentElement.scrollWidth").await?;
        ensure!(width == WIDTH, "the page is {width} wide, and the phone {WIDTH}");
        Ok(())
    }

    /// Whatever can be used has a name that a screen reader says.
    async fn is_named(&mut self) -> Result<()> {
        let tree = self.browser.call("Accessibility.getFullAXTree", json!({})).await?;
        let nodes = tree["nodes"].as_array().context("there is a tree")?;
        let uses = ["button", "textbox", "radio", "combobox", "link"];
        let mut found = 0;
        for node in nodes.iter().filter(|node| node["ignored"] == false) {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            if uses.contains(&role) {
                found += 1;
                ensure!(
                    !node["name"]["value"].as_str().unwrap_or_default().trim().is_empty(),
                    "without a name: {node}"
                );
            }
        }
        ensure!(found > 0, "nothing can be used: {nodes:?}");
        Ok(())
    }
}

async fn sign_in(phone: &mut Phone) -> Result<()> {
    phone.fits().await?;
    phone.is_named().await?;
    phone.browser.tab_to("code").await?;
    phone.browser.write("1234 5678").await?;
    phone.browser.press(Key::Enter).await?;
    phone.says("wrong", "no code that counts").await?;
    let told = phone.car.agent(&["page", "code"]).await?.stdout;
    ensure!(told.contains(&phone.origin.replace("127.0.0.1", "localhost")), "{told}");
    let code = told.lines().next().context("it begins with the code")?.to_owned();
    // What was typed before goes.
    phone
        .browser
        .evaluate("document.getElementById('code').value = ''")
        .await?;
    phone.browser.tab_to("code").await?;
    phone.browser.write(&code).await?;
    phone.browser.press(Key::Enter).await?;
    phone.has_focus("now-title").await?;
    phone.says("standing", "ready to work").await?;
    phone.says("earned", "nothing yet").await?;
    phone.says("history-state", "Nothing yet").await?;
    phone.says("says", "work of the class inference").await?;
    phone.says("consents", "inference: holds").await?;
    phone.fits().await?;
    phone.is_named().await
}

async fn pause_and_resume(phone: &mut Phone) -> Result<()> {
    phone.press("pause-hour", Key::Enter).await?;
    phone.says("standing", "stands still").await?;
    phone.says("until", "Paused until").await?;
    phone.car_says(&["standing  paused", "OwnerPaused"]).await?;
    phone.has_focus("resume").await?;
    phone.browser.press(Key::Space).await?;
    phone.says("standing", "ready to work").await?;
    phone.has_focus("pause-hour").await?;
    phone.car_says(&["standing  available"]).await?;
    // Said in the car, and seen on the phone.
    phone.car.owner("pause").await?;
    phone.says("until", "until you resume").await?;
    phone.car.owner("resume").await?;
    phone.says("standing", "ready to work").await
}

async fn withdraw(phone: &mut Phone) -> Result<()> {
    phone.press("withdraw", Key::Enter).await?;
    phone.has_focus("sure-no").await?;
    phone.browser.press(Key::Escape).await?;
    phone.has_focus("withdraw").await?;
    phone.car_says(&["standing  available"]).await?;
    phone.browser.press(Key::Enter).await?;
    phone.press("sure-yes", Key::Enter).await?;
    phone.says("standing", "does not work").await?;
    phone.says("problem", "You took your consent back").await?;
    phone.says("consents", "inference: does not hold").await?;
    phone.car_says(&["standing  away", "OwnerConsentMissing"]).await
}

/// What went wrong with something that the owner did is there until it is put away, however often the page looks at how things stand.
async fn names_no_kind_of_work(phone: &mut Phone) -> Result<()> {
    phone.browser.tab_to("classes").await?;
    phone.browser.write("No_Such").await?;
    phone.press("agree-read", Key::Enter).await?;
    phone.says("wrong", "is no kind of work").await?;
    let looks = "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/status')).length";
    let before = phone.browser.evaluate(looks).await?;
    let two_more = format!("{looks} >= {before} + 2");
    phone.browser.until("the page to look twice more", &two_more).await?;
    phone.says("wrong", "is no kind of work").await?;
    phone.press("wrong-close", Key::Enter).await?;
    phone.has_focus("agree-read").await?;
    let put_away = "document.getElementById('wrong').textContent === ''";
    phone.browser.until("the message to be put away", put_away).await?;
    let right = "document.getElementById('classes').value = 'inference'";
    phone.browser.evaluate(right).await.map(|_| ())
}

async fn agree_anew(phone: &mut Phone) -> Result<()> {
    phone.press("agree-open", Key::Enter).await?;
    phone.browser.tab_to("profile-plugged-in-nights").await?;
    // At any time, for nobody knows at which this test is run.
    phone.browser.press(Key::Down).await?;
    phone.has_focus("profile-whenever-plugged-in").await?;
    phone.fits().await?;
    names_no_kind_of_work(phone).await?;
    phone.press("agree-read", Key::Enter).await?;
    phone.has_focus("notice-title").await?;
    phone.says("notices", "You may take this back at any time").await?;
    phone.fits().await?;
    phone.is_named().await?;
    phone.press("notice-yes", Key::Enter).await?;
    phone.says("said", "Written").await?;
    phone.says("consents", "inference: holds").await?;
    phone.says("says", "30 %").await
}

#[tokio::test]
async fn owner_steers_the_car_by_keys_on_a_small_phone_and_nobody_but_the_car_is_asked() -> Result<()> {
    world::run("page", async |world| {
        let Some(program) = browser::program()? else {
            return Ok(());
        };
        let mut phone = Phone::take(world, &program).await?;
        sign_in(&mut phone).await?;
        pause_and_resume(&mut phone).await?;
        withdraw(&mut phone).await?;
        world.phase(&phone.car, VehiclePhase::Away).await?;
        agree_anew(&mut phone).await?;
        world.phase(&phone.car, VehiclePhase::Available).await?;
        phone.says("standing", "ready to work").await?;
        let export = "fetch('/api/v1/export').then((answer) => answer.json()).then((told) => told.schema)";
        let schema = phone.browser.evaluate(export).await?;
        ensure!(
            schema.as_str().is_some_and(|schema| schema.contains("export")),
            "{schema}"
        );
        phone.car.agent(&["page", "sign-out"]).await?;
        phone.has_focus("code").await?;

        phone.asks_another().await?;
        ensure!(
            phone.browser.exceptions().is_empty(),
            "{:?}",
            phone.browser.exceptions()
        );
        let asked = phone.browser.requested();
        ensure!(
            asked.len() > 10 && phone.others(&asked).is_empty(),
            "the page asks {asked:?}"
        );

        // Where the browser does not heed the car's policy somebody else is asked: who looks for such requests sees it.
        phone
            .browser
            .call("Page.setBypassCSP", json!({"enabled": true}))
            .await?;
        phone.browser.open(&format!("{}/", phone.origin)).await?;
        phone.asks_for_a_code().await?;
        phone.asks_another().await?;
        let asked = phone.browser.requested();
        ensure!(phone.others(&asked).len() == 1, "{asked:?}");
        let Phone { browser, origin, .. } = phone;
        let all = browser.end().await?;
        let others: Vec<_> = all
            .iter()
            .filter(|url| !url.starts_with(&format!("{origin}/")))
            .collect();
        ensure!(all.len() > 10 && !others.is_empty(), "{all:?}");
        ensure!(
            others.iter().all(|url| url.contains(OTHER)),
            "the browser asks {others:?}"
        );
        Ok(())
    })
    .await
}
