//! The notice: what an owner is told before a consent counts. Every word of it that may matter is in the text that is shown, and a record
//! names that text by its hash: who changes the text has no consent any more, and has to ask again.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::record::{LANGUAGE, NoticeShown};
use crate::receipt::digest;

/// Of the notice that ships with the agent. Whoever changes that text raises it.
const VERSION: &str = "1";
const TEXT: &str = "\
Your car's computer runs programs that other people send, of the kind named below, while the car is parked and your other terms allow it.
To decide when, the agent in the car reads the car's own signals; they are judged in the car and never leave it.
What leaves the car: a random name of the car, that it is free or not and what it offers; what the programs print, produce and used; and for each \
one a signed receipt of when it ran and on which consent.
From when the car is free and when not, somebody could conclude when you are at home.
You may take this back at any time, without a network and without a reason: `kerbside-agent consent withdraw`. Work of this kind ends then. It does \
not make unlawful what was done before.
You may have everything that the car holds on you (`kerbside-agent export`) and have it deleted (`kerbside-agent forget`).
Without your consent nothing of this happens, and nothing else of your car depends on it.";
const RETENTION: &str =
    "in the car until you have it deleted; receipts at the fleet as long as its accounts must be kept";

/// What an owner is told. A fleet or a maker may have its own, in `notice.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Notice {
    /// What it calls this version of itself.
    pub version: String,
    /// Its language, such as `de`.
    pub language: String,
    /// Who decides on the processing, and how to reach them.
    pub controller: String,
    /// Under which law.
    pub jurisdiction: String,
    /// For how long is kept what is kept.
    pub retention: String,
    /// What holds for every purpose.
    pub text: String,
    /// What is said of one purpose beside that.
    #[serde(default)]
    pub purposes: BTreeMap<String, String>,
}

/// A notice that tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} of the notice is empty")]
pub struct NoticeError(&'static str);

impl Notice {
    /// The one that ships with the agent. `controller` is whoever the car is enrolled with, as far as the car knows it.
    pub fn built_in(controller: &str) -> Self {
        Self {
            version: VERSION.to_owned(),
            language: LANGUAGE.to_owned(),
            controller: controller.to_owned(),
            jurisdiction: "EU".to_owned(),
            retention: RETENTION.to_owned(),
            text: TEXT.to_owned(),
            purposes: BTreeMap::new(),
        }
    }

    /// What the types cannot say.
    pub fn check(self) -> Result<Self, NoticeError> {
        for (field, said) in [
            ("version", &self.version),
            ("language", &self.language),
            ("controller", &self.controller),
            ("jurisdiction", &self.jurisdiction),
            ("retention", &self.retention),
            ("text", &self.text),
        ] {
            if said.trim().is_empty() {
                return Err(NoticeError(field));
            }
        }
        Ok(self)
    }

    /// What is shown to somebody who is asked for this purpose.
    pub fn text_for(&self, purpose: &str) -> String {
        let Self {
            version,
            controller,
            jurisdiction,
            retention,
            text,
            purposes,
            ..
        } = self;
        let of_purpose = purposes.get(purpose).map(|said| format!("{}\n", said.trim_end()));
        format!(
            "{}\n\nKind of work: {purpose}\n{}Responsible: {controller}\nLaw: {jurisdiction}\nKept: {retention}\nNotice {version}\n",
            text.trim_end(),
            of_purpose.unwrap_or_default()
        )
    }

    /// How a record names what was shown for this purpose.
    pub fn shown_for(&self, purpose: &str) -> NoticeShown {
        NoticeShown {
            version: self.version.clone(),
            sha256: digest(self.text_for(purpose).as_bytes()),
            language: self.language.clone(),
        }
    }
}
