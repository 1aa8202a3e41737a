//! The command line: what the owner types and what the car's init system starts.

mod consent;
mod policy;
pub(crate) mod rights;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kerbside_core::clock::Clock as _;
use kerbside_core::owner::Word;
use kerbside_link::SystemClock;

use crate::agent::{self, Options};
use crate::control::{self, Answer, Ask, Consents, Data, Energy, Held, Network, Receipts, Visit};
use crate::directory::Directory;
use crate::forget::Reason;
use crate::receipts::show;
use crate::runtime::wasm::compiler;

/// Runs in the car: decides when it works for the cluster, and does the work.
#[derive(Debug, Parser)]
#[command(name = "kerbside-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Args)]
struct Place {
    /// The agent's directory
    #[arg(long, env = "KERBSIDE_DIR", default_value = "/var/lib/kerbside")]
    dir: PathBuf,
}

/// Something that was looked for, and found: what there is to say is for standard output, and the exit code is 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Found(pub String);

#[derive(Debug, Args)]
struct Reading {
    #[command(flatten)]
    place: Place,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum ReceiptsVerb {
    /// Lists every receipt in a line
    List(Reading),
    /// Checks every signature and the chain; exits with 1 if anything is wrong
    Verify(Reading),
    /// Prints receipts and certificates as one JSON document, for others to check
    Export(Reading),
}

#[derive(Debug, Subcommand)]
enum PageVerb {
    /// Prints a new code to sign in with: it holds for ten minutes, and once
    Code(Place),
    /// Signs out whoever is signed in, such as a phone that was lost
    SignOut(Place),
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the agent until it is told to end
    Run {
        #[command(flatten)]
        place: Place,
        /// The cluster's address for cars, <https://host:port>
        #[arg(long, env = "KERBSIDE_LINK")]
        link: String,
        /// Plays simulated signals from this file instead of listening to the car
        #[arg(long)]
        scenario: Option<PathBuf>,
        /// A registry (host:port) that is spoken to without TLS; may be given more than once
        #[arg(long)]
        registry_http: Vec<String>,
        /// What is logged: error, warn, info, debug, or a filter as of tracing-subscriber
        #[arg(long, default_value = "info", env = "KERBSIDE_LOG")]
        log: String,
    },
    /// Makes this car known to the cluster, once
    Enrol {
        #[command(flatten)]
        place: Place,
        /// The cluster's address for cars, <https://host:port>
        #[arg(long, env = "KERBSIDE_LINK")]
        link: String,
        /// The token that `kubectl fleet enrol` printed
        #[arg(
            long,
            env = "KERBSIDE_TOKEN",
            hide_env_values = true,
            required_unless_present = "token_file"
        )]
        token: Option<String>,
        /// A file with the token, as `kubectl fleet enrol --token-file` writes it
        #[arg(long, value_name = "FILE", conflicts_with = "token")]
        token_file: Option<PathBuf>,
        /// Do nothing if the car is enrolled already, instead of refusing
        #[arg(long)]
        unless_enrolled: bool,
    },
    /// Lets all work stand still until `resume`, or for so long
    Pause {
        #[command(flatten)]
        place: Place,
        /// For how long, such as 90m or 12h; without it until `resume`
        #[arg(long = "for", value_name = "DURATION", value_parser = kerbside_core::duration::parse)]
        lasting: Option<Duration>,
    },
    /// Lets work go on after `pause`
    Resume(Place),
    /// Takes the consent back: all work ends, and none is accepted until a new consent is given
    Withdraw(Place),
    /// What the owner has consented to, on record: without a record there is no work
    Consent {
        #[command(subcommand)]
        verb: consent::Verb,
    },
    /// Prints everything that the car holds on its owner, as one JSON document
    Export(Place),
    /// Ends all work and deletes everything that the car holds on its owner, once what was earned is delivered
    Forget(rights::Forget),
    /// Who owns the car
    Owner {
        #[command(subcommand)]
        verb: rights::OwnerVerb,
    },
    /// What the owner's document says and means, and when the car would have worked by it
    Policy {
        #[command(subcommand)]
        verb: policy::Verb,
    },
    /// Compiles a module into the cache: called by the agent itself
    #[command(name = compiler::COMMAND, hide = true)]
    Compile {
        #[arg(long)]
        cache: PathBuf,
        module: PathBuf,
    },
    /// What the car has signed for: what each attempt used
    Receipts {
        #[command(subcommand)]
        verb: ReceiptsVerb,
    },
    /// The owner's page on the car's own network
    Page {
        #[command(subcommand)]
        verb: PageVerb,
    },
    /// Says how things stand
    Status {
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

impl Cli {
    /// What is logged.
    pub fn log(&self) -> &str {
        if let Verb::Run { log, .. } = &self.command {
            log
        } else {
            "warn"
        }
    }

    /// Does what was asked; the text is for standard output.
    pub async fn run(self) -> anyhow::Result<String> {
        match self.command {
            Verb::Run {
                place,
                link,
                scenario,
                registry_http,
                log: _,
            } => {
                agent::run(Options {
                    directory: place.dir,
                    link,
                    scenario,
                    registry_http,
                })
                .await?;
                Ok(String::new())
            }
            Verb::Enrol {
                place,
                link,
                token,
                token_file,
                unless_enrolled,
            } => {
                let token = match token_file {
                    Some(file) => std::fs::read_to_string(&file)
                        .map_err(|e| anyhow::anyhow!("failed to read the token from {}: {e}", file.display()))?,
                    None => token.unwrap_or_default(),
                };
                match agent::enrol(&place.dir, &link, token.trim()).await {
                    Ok(vehicle) => Ok(format!("enrolled as {vehicle}\n")),
                    // The agent that is started next delivers, and forgets.
                    Err(agent::EnrolError::Already(_) | agent::EnrolError::Forgetting { somebody: true })
                        if unless_enrolled =>
                    {
                        Ok("enrolled already\n".to_owned())
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Verb::Compile { cache, module } => Ok(compiler::compile(&cache, &module)),
            Verb::Pause { place, lasting } => {
                let until = lasting.map(|lasting| control::after(SystemClock.wall(), lasting));
                tell(&place.dir, until.map_or(Word::Pause, Word::PauseUntil)).await
            }
            Verb::Resume(place) => tell(&place.dir, Word::Resume).await,
            Verb::Withdraw(place) => tell(&place.dir, Word::Withdraw).await,
            Verb::Consent { verb } => consent::run(verb, SystemClock.wall()).await,
            Verb::Export(place) => rights::export(&place.dir, SystemClock.wall()).await,
            Verb::Forget(forget) => rights::forget(&forget, Reason::Forgotten, SystemClock.wall()).await,
            Verb::Owner {
                verb: rights::OwnerVerb::Change(forget),
            } => rights::forget(&forget, Reason::OwnerChanged, SystemClock.wall()).await,
            Verb::Policy { verb } => policy::run(verb, SystemClock.wall()),
            Verb::Receipts { verb } => receipts(verb).await,
            Verb::Page { verb } => page(verb).await,
            Verb::Status { place, json } => {
                let answer = asked(&place, Ask::Status).await?;
                Ok(if json {
                    format!("{}\n", serde_json::to_string(&answer.status)?)
                } else {
                    describe(&answer)
                })
            }
        }
    }
}

/// What concerns the owner's page.
async fn page(verb: PageVerb) -> anyhow::Result<String> {
    let answer = match verb {
        PageVerb::Code(place) => asked(&place, Ask::PageCode).await?,
        PageVerb::SignOut(place) => asked(&place, Ask::PageSignOut).await?,
    };
    Ok(format!("{}\n", answer.text))
}

/// Asks a running agent, which there must be.
async fn asked(place: &Place, ask: Ask) -> anyhow::Result<Answer> {
    let directory = Directory::open(&place.dir)?;
    let answer = control::ask(&directory.socket(), ask).await?;
    answer.with_context(|| format!("no agent runs in {}", place.dir.display()))
}

/// Tells a running agent, or writes down what the next one has to know; also where one runs that does not answer in time, as long as that can only end
/// work: nothing is resumed behind an agent's back.
async fn tell(dir: &Path, word: Word) -> anyhow::Result<String> {
    let directory = Directory::open(dir)?;
    let now = SystemClock.wall();
    let how = match control::ask(&directory.socket(), word.into()).await {
        Ok(Some(answer)) => {
            // Work stands still already; what follows is for the record.
            let record = if word == Word::Withdraw {
                consent::record_withdrawal(&directory, now).await
            } else {
                String::new()
            };
            return Ok(format!("{}{record}\n", answer.text));
        }
        Ok(None) => "no agent runs; this holds when one starts".to_owned(),
        Err(error) if word == Word::Resume => return Err(error.into()),
        Err(error) => format!("{error}: this may hold already, and it does when an agent starts"),
    };
    let owner = crate::config::owner(&directory.owner()).ok().flatten();
    let at = control::said_at(now, owner.as_ref().map(|owner| &owner.document));
    let (remembered, says) = control::remembered(&directory.command(), now).after(word, at);
    control::remember(&directory.command(), remembered)?;
    let record = if word == Word::Withdraw {
        consent::record_withdrawal(&directory, now).await
    } else {
        String::new()
    };
    Ok(format!("{says}{record} ({how})\n"))
}

async fn receipts(verb: ReceiptsVerb) -> anyhow::Result<String> {
    let (ReceiptsVerb::List(Reading { place, json })
    | ReceiptsVerb::Verify(Reading { place, json })
    | ReceiptsVerb::Export(Reading { place, json })) = &verb;
    let shown = show::read(&Directory::existing(&place.dir)?).await?;
    Ok(match (&verb, json) {
        (ReceiptsVerb::List(_), false) => shown.list(),
        (ReceiptsVerb::List(_), true) => shown.list_json()?,
        (ReceiptsVerb::Export(_), _) => shown.export()?,
        (ReceiptsVerb::Verify(_), json) => {
            let report = if *json { shown.verify_json()? } else { shown.verify() };
            if !shown.is_well() {
                return Err(Found(report).into());
            }
            report
        }
    })
}

fn describe(answer: &Answer) -> String {
    let status = &answer.status;
    let mut text = format!(
        "standing  {}\nowner     {}\nlink      {}\nattempts  {}\n",
        status.standing, status.owner, status.link, status.attempts
    );
    writeln!(text, "network   {}", network(status.network.as_ref())).expect("writing to a String cannot fail");
    writeln!(text, "receipts  {}", signed_for(&status.receipts)).expect("writing to a String cannot fail");
    writeln!(text, "consents  {}", on_record(&status.consents)).expect("writing to a String cannot fail");
    if !status.stalled.is_empty() {
        writeln!(text, "stalled   {}", status.stalled).expect("writing to a String cannot fail");
    }
    if let Some(energy) = &status.energy {
        writeln!(text, "energy    {}", taken(energy)).expect("writing to a String cannot fail");
    }
    if let Some(data) = &status.data {
        writeln!(text, "data      {}", moved(data)).expect("writing to a String cannot fail");
    }
    // Indented: a line that begins with a word of the above is read by programs.
    for held in &status.held {
        writeln!(text, "  {}", attempt(held)).expect("writing to a String cannot fail");
    }
    for visit in &status.visits {
        writeln!(text, "  {}", visited(visit)).expect("writing to a String cannot fail");
    }
    for (factor, value) in &status.factors {
        writeln!(text, "{value:<9} {factor}").expect("writing to a String cannot fail");
    }
    text
}

/// Somebody from elsewhere who is, was or wanted to be in a Pod.
fn visited(visit: &Visit) -> String {
    let Visit {
        user,
        pod,
        what,
        from,
        to,
        refused,
    } = visit;
    if !refused.is_empty() {
        return format!("NOT LET IN  {user}  {pod}  {what}  at {from}: {refused}");
    }
    match to {
        None => format!("IS IN  {user}  {pod}  {what}  since {from}"),
        Some(to) => format!("was in  {user}  {pod}  {what}  from {from} to {to}"),
    }
}

fn moved(data: &Data) -> String {
    let mut text = format!(
        "{} B this month, {} B of them by networks that cost by the byte",
        data.month_bytes, data.month_metered_bytes
    );
    if let Some(most) = data.per_month {
        let of_them = if data.metered_only { " of these" } else { "" };
        write!(text, "; at most {most} B{of_them}").expect("writing to a String cannot fail");
    }
    if let Some(interface) = &data.interface {
        write!(text, "; by {interface}").expect("writing to a String cannot fail");
    }
    text.push_str(match data.metered.as_str() {
        "yes" => ", which costs by the byte",
        "no" => ", which costs nothing by the byte",
        _ => "; whether the network costs by the byte is not known",
    });
    if data.lost {
        text.push_str("; WHAT THIS MONTH HAS HAD IS NOT KNOWN, AND COUNTS AS ALL OF IT");
    }
    text
}

fn taken(energy: &Energy) -> String {
    let mut text = format!("{} kWh for work today", energy.today_kwh);
    if let Some(most) = &energy.max_kwh {
        write!(text, ", of at most {most}").expect("writing to a String cannot fail");
    }
    if let Some(cost) = &energy.cost {
        write!(text, "; at a cost of {cost}").expect("writing to a String cannot fail");
    }
    if let Some(price) = &energy.price {
        write!(text, ", and a kWh costs {price} now").expect("writing to a String cannot fail");
    }
    write!(text, "; known by {}", energy.source).expect("writing to a String cannot fail");
    if energy.lost {
        text.push_str("; WHAT TODAY HAS HAD IS NOT KNOWN, AND COUNTS AS ALL OF IT");
    }
    text
}

fn signed_for(receipts: &Receipts) -> String {
    let mut text = match receipts.newest {
        0 => "none".to_owned(),
        newest => format!("{}, the newest is {newest}", receipts.count),
    };
    if receipts.newest > receipts.delivered {
        let says = match receipts.delivered {
            0 => "; none is delivered yet".to_owned(),
            delivered => format!("; delivered up to {delivered}"),
        };
        text.push_str(&says);
    }
    if !receipts.refused.is_empty() {
        write!(text, "; NO MORE WORK IS TAKEN: {}", receipts.refused).expect("writing to a String cannot fail");
    }
    if !receipts.trouble.is_empty() {
        write!(text, "; {}", receipts.trouble).expect("writing to a String cannot fail");
    }
    if !receipts.aside.is_empty() {
        let aside = receipts.aside.join(" ");
        write!(text, "; KEPT ASIDE, FOR THEY DO NOT VERIFY: {aside}").expect("writing to a String cannot fail");
    }
    text
}

fn on_record(consents: &Consents) -> String {
    if !consents.trouble.is_empty() {
        return format!("NONE COUNTS: {}", consents.trouble);
    }
    let purposes = consents.purposes.iter().map(|purpose| {
        let control::Purpose { purpose, holds, says } = purpose;
        if *holds {
            format!("{purpose} {says}")
        } else {
            format!("NOT {purpose}: {says}")
        }
    });
    let purposes: Vec<_> = purposes.collect();
    if purposes.is_empty() {
        "none was given: `kerbside-agent consent give`".to_owned()
    } else {
        purposes.join("; ")
    }
}

fn network(network: Option<&Network>) -> String {
    let Some(network) = network.filter(|network| !network.allow.is_empty()) else {
        return "work reaches nothing".to_owned();
    };
    let ports: Vec<_> = network.ports.iter().map(ToString::to_string).collect();
    format!(
        "work reaches {} at {}, {} B/s; {} B sent, {} B received, {} refused",
        network.allow.join(" "),
        ports.join(" "),
        network.max_bytes_per_second,
        network.sent,
        network.received,
        network.refused
    )
}

/// One line on an attempt: what it belongs to, its class, its images, its state.
fn attempt(held: &Held) -> String {
    let Held {
        pod,
        job,
        class,
        images,
        state,
        reason,
    } = held;
    let mut text = format!("{pod}  class {class}  {}  {state}", images.join(" "));
    if !job.is_empty() {
        write!(text, "  of job {job}").expect("writing to a String cannot fail");
    }
    if !reason.is_empty() {
        write!(text, "  ({reason})").expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn status_lists_what_the_car_holds_below_the_lines_that_programs_read() {
        let held = Held {
            pod: "vision/digits-0-abcde".to_owned(),
            job: "digits".to_owned(),
            class: "inference".to_owned(),
            images: vec!["registry/digits:v1".to_owned()],
            state: "Frozen".to_owned(),
            reason: "VehiclePaused".to_owned(),
        };
        let plain = Held {
            pod: "link/plain".to_owned(),
            class: "unclassified".to_owned(),
            state: "Running".to_owned(),
            images: vec!["a:1".to_owned(), "b:2".to_owned()],
            ..Held::default()
        };
        let answer = Answer {
            text: String::new(),
            status: control::Status {
                standing: "paused".to_owned(),
                owner: "OwnerPaused".to_owned(),
                factors: vec![("the car is at home".to_owned(), "yes".to_owned())],
                attempts: 2,
                held: vec![held, plain],
                link: "connected".to_owned(),
                ..control::Status::default()
            },
        };
        assert_eq!(
            describe(&answer),
            "standing  paused\nowner     OwnerPaused\nlink      connected\nattempts  2\nnetwork   work reaches nothing\n\
             receipts  none\nconsents  none was given: `kerbside-agent consent give`\n  \
             vision/digits-0-abcde  class inference  registry/digits:v1  Frozen  of job digits  (VehiclePaused)\n  \
             link/plain  class unclassified  a:1 b:2  Running\nyes       the car is at home\n"
        );
    }

    #[test]
    fn owner_is_told_who_is_in_a_pod_who_was_and_who_wanted_to_be() {
        let is_in = Visit {
            user: "ann".to_owned(),
            pod: "link/plain".to_owned(),
            what: "runs \"sh\" in main".to_owned(),
            from: "2026-11-22T10:00:00Z".parse().unwrap(),
            to: None,
            refused: String::new(),
        };
        let was_in = Visit {
            to: Some("2026-11-22T10:05:00Z".parse().unwrap()),
            ..is_in.clone()
        };
        let refused = Visit {
            refused: "the owner does not allow it".to_owned(),
            ..was_in.clone()
        };
        let status = control::Status {
            visits: vec![refused, was_in, is_in],
            ..control::Status::default()
        };
        let text = describe(&Answer {
            text: String::new(),
            status,
        });
        assert!(
            text.ends_with(
                "  NOT LET IN  ann  link/plain  runs \"sh\" in main  at 2026-11-22T10:00:00Z: the owner does not allow it\n  \
                 was in  ann  link/plain  runs \"sh\" in main  from 2026-11-22T10:00:00Z to 2026-11-22T10:05:00Z\n  \
                 IS IN  ann  link/plain  runs \"sh\" in main  since 2026-11-22T10:00:00Z\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn owner_is_told_what_work_may_reach_and_did() {
        let told = network(Some(&Network {
            allow: vec!["public".to_owned(), "192.168.7.0/24".to_owned()],
            ports: vec![80, 443],
            max_bytes_per_second: 1 << 20,
            sent: 3,
            received: 12,
            refused: 1,
        }));
        let says = "work reaches public 192.168.7.0/24 at 80 443, 1048576 B/s; 3 B sent, 12 B received, 1 refused";
        assert_eq!(told, says);
    }

    #[test]
    fn owner_is_told_what_this_month_has_moved() {
        let mut data = Data {
            month_bytes: 12,
            month_metered_bytes: 3,
            interface: Some("wwan0".to_owned()),
            metered: "yes".to_owned(),
            ..Data::default()
        };
        let month = "12 B this month, 3 B of them by networks that cost by the byte";
        assert_eq!(moved(&data), format!("{month}; by wwan0, which costs by the byte"));
        data = Data {
            lost: true,
            per_month: Some(1024),
            metered_only: true,
            interface: None,
            metered: "unknown".to_owned(),
            ..data
        };
        assert_eq!(
            moved(&data),
            format!(
                "{month}; at most 1024 B of these; whether the network costs by the byte is not known; \
                 WHAT THIS MONTH HAS HAD IS NOT KNOWN, AND COUNTS AS ALL OF IT"
            )
        );
    }

    #[test]
    fn owner_is_told_what_work_takes_and_costs() {
        let mut energy = Energy {
            today_kwh: "0.412".to_owned(),
            source: "model".to_owned(),
            ..Energy::default()
        };
        assert_eq!(taken(&energy), "0.412 kWh for work today; known by model");
        energy = Energy {
            lost: true,
            max_kwh: Some("2".to_owned()),
            cost: Some("0.09 EUR".to_owned()),
            price: Some("0.22 EUR".to_owned()),
            ..energy
        };
        assert_eq!(
            taken(&energy),
            "0.412 kWh for work today, of at most 2; at a cost of 0.09 EUR, and a kWh costs 0.22 EUR now; known by model; \
             WHAT TODAY HAS HAD IS NOT KNOWN, AND COUNTS AS ALL OF IT"
        );
    }

    #[test]
    fn owner_is_told_of_receipts_and_loudly_of_those_that_do_not_verify() {
        let told = signed_for(&Receipts {
            count: 2,
            newest: 9,
            aside: vec!["usage.jsonl.broken-1".to_owned()],
            trouble: "failed to write receipt: disk full".to_owned(),
            delivered: 8,
            refused: "the cluster does not take receipt 9".to_owned(),
        });
        let says = "2, the newest is 9; delivered up to 8; NO MORE WORK IS TAKEN: the cluster does not take receipt 9; \
                    failed to write receipt: disk full; KEPT ASIDE, FOR THEY DO NOT VERIFY: usage.jsonl.broken-1";
        assert_eq!(told, says);
    }

    #[test]
    fn owner_is_told_of_each_purpose_and_why_it_does_not_hold() {
        let purpose = |purpose: &str, holds, says: &str| control::Purpose {
            purpose: purpose.to_owned(),
            holds,
            says: says.to_owned(),
        };
        let mut consents = Consents {
            purposes: vec![
                purpose("inference", true, "until you withdraw it"),
                purpose("video", false, "none was given"),
            ],
            trouble: String::new(),
        };
        assert_eq!(
            on_record(&consents),
            "inference until you withdraw it; NOT video: none was given"
        );
        consents.trouble = "they are cut off".to_owned();
        assert_eq!(on_record(&consents), "NONE COUNTS: they are cut off");
    }

    /// `kubectl fleet enrol` prints such a line, to be run as it is.
    #[test]
    fn line_that_an_operator_hands_out_needs_nothing_more() {
        let cli = Cli::try_parse_from([
            "kerbside-agent",
            "enrol",
            "--link",
            "https://x:1",
            "--token",
            "kb1.a.b.c",
        ]);
        let Verb::Enrol { place, .. } = cli.unwrap().command else {
            unreachable!("the line enrols")
        };
        assert_eq!(place.dir, std::path::Path::new("/var/lib/kerbside"));
    }

    #[tokio::test]
    async fn car_that_is_enrolled_enrols_again_only_if_that_does_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let identity = temp.path().join("identity");
        std::fs::create_dir(&identity).unwrap();
        std::fs::write(identity.join("identity.json"), "x").unwrap();
        let token = temp.path().join("token");
        std::fs::write(&token, "not a token\n").unwrap();
        let run = |more: &[&str]| {
            let (dir, token) = (temp.path().to_str().unwrap(), token.to_str().unwrap());
            let line = [
                "kerbside-agent",
                "enrol",
                "--dir",
                dir,
                "--link",
                "https://x:1",
                "--token-file",
                token,
            ];
            Cli::parse_from(line.iter().chain(more)).run()
        };
        assert!(run(&[]).await.unwrap_err().to_string().contains("has an identity"));
        assert_eq!(run(&["--unless-enrolled"]).await.unwrap(), "enrolled already\n");
        std::fs::remove_file(identity.join("identity.json")).unwrap();
        assert!(
            run(&["--unless-enrolled"])
                .await
                .unwrap_err()
                .to_string()
                .contains("failed to enrol")
        );
    }

    #[tokio::test]
    async fn command_without_an_agent_is_kept_for_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_str().unwrap();
        let run = |verb: &str| Cli::parse_from(["kerbside-agent", verb, "--dir", dir]).run();
        assert!(run("pause").await.unwrap().contains("no agent runs"));
        let hour = Cli::parse_from(["kerbside-agent", "pause", "--for", "1h", "--dir", dir]).run();
        assert!(hour.await.unwrap().contains("until the moment"));
        let kept = std::fs::read_to_string(temp.path().join("command.json")).unwrap();
        assert!(kept.contains(r#""until":"#), "{kept}");
        let bad = Cli::try_parse_from(["kerbside-agent", "pause", "--for", "soon"]).unwrap_err();
        assert!(bad.to_string().contains("is not a duration"), "{bad}");
        let code = Cli::parse_from(["kerbside-agent", "page", "code", "--dir", dir]).run();
        assert!(code.await.unwrap_err().to_string().contains("no agent runs"));
        assert!(temp.path().join("command.json").exists());
        assert!(run("status").await.unwrap_err().to_string().contains("no agent runs"));
        run("withdraw").await.unwrap();
        assert!(
            run("resume").await.unwrap().contains("owner.yaml"),
            "a withdrawal is not resumed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn word_that_the_agent_does_not_answer_is_written_down_unless_it_lets_work_go_on() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let _deaf = control::listen(&directory.socket()).unwrap();
        let dir = temp.path().to_str().unwrap();
        let run = |verb: &str| Cli::parse_from(["kerbside-agent", verb, "--dir", dir]).run();
        let kept = || std::fs::read_to_string(directory.command()).unwrap();
        let resumed = run("resume").await.unwrap_err().to_string();
        assert!(resumed.contains("does not answer"), "{resumed}");
        assert!(!directory.command().exists());
        for verb in ["pause", "withdraw"] {
            let said = run(verb).await.unwrap();
            assert!(
                said.contains("does not answer") && said.contains("may hold already"),
                "{said}"
            );
            assert!(kept().contains(verb), "{}", kept());
        }
    }
}
