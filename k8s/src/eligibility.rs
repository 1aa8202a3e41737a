//! A pool's terms of eligibility: CEL expressions over a car's `offer`, compiled once and judged per offer.
//!
//! The operator compiles them to say what is wrong with a pool; the adapter judges each offer by them. Both go through here, so
//! that what one accepts the other can evaluate. An expression that cannot be evaluated for an offer is not met: no is the
//! default, and an error never makes a car eligible.

use kube::core::cel::KubeCelExt;
use kube::core::cel::cel::objects::Key;
use kube::core::cel::cel::{Context, ExecutionError, Program, Value};
use serde_json::json;

/// The one variable that an expression may use.
const OFFER: &str = "offer";

/// One term as a pool has it.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Unique in its pool.
    pub name: &'a str,
    /// In CEL, over `offer`.
    pub expression: &'a str,
    /// What people are told when it is not met.
    pub message: &'a str,
}

/// A term that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("eligibility rule '{rule}': {why}")]
pub struct RuleError {
    /// The term's name.
    pub rule: String,
    /// What is wrong with its expression.
    pub why: String,
}

/// A term that an offer does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The term's name.
    pub rule: String,
    /// The term's message, and why the expression could not be evaluated if that is the cause.
    pub message: String,
}

/// The compiled terms of one pool.
#[derive(Debug, Default)]
pub struct Eligibility {
    terms: Vec<Term>,
}

#[derive(Debug)]
struct Term {
    name: String,
    message: String,
    program: Program,
}

impl Eligibility {
    /// Compiles all terms, or says for each bad one what is wrong with it.
    pub fn compile<'a>(rules: impl IntoIterator<Item = Rule<'a>>) -> Result<Self, Vec<RuleError>> {
        let (mut terms, mut errors) = (Vec::new(), Vec::new());
        for rule in rules {
            match compile(rule.expression) {
                Ok(program) => {
                    terms.push(Term {
                        name: rule.name.to_owned(),
                        message: rule.message.to_owned(),
                        program,
                    });
                }
                Err(why) => errors.push(RuleError {
                    rule: rule.name.to_owned(),
                    why,
                }),
            }
        }
        if errors.is_empty() {
            Ok(Self { terms })
        } else {
            Err(errors)
        }
    }

    /// Whether `offer` (a Vehicle's `status.offer` as JSON) meets every term; else the first that it does not meet.
    pub fn judge(&self, offer: &serde_json::Value) -> Result<(), Unmet> {
        let context = context(offer);
        for term in &self.terms {
            let unmet = |message| {
                Err(Unmet {
                    rule: term.name.clone(),
                    message,
                })
            };
            match term.program.execute(&context) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return unmet(term.message.clone()),
                Ok(_) => return unmet(format!("{} (the expression is neither true nor false)", term.message)),
                Err(error) => return unmet(format!("{} ({error})", term.message)),
            }
        }
        Ok(())
    }
}

/// Whether a macro of the expression (`exists`, `all`, `map`, …) brings this variable in: it stands right after an opening
/// parenthesis and before a comma, as in `offer.runtimes.exists(r, r == 'wasm')`.
fn binds(expression: &str, variable: &str) -> bool {
    expression.split('(').skip(1).any(|argument| {
        argument
            .split_once(',')
            .is_some_and(|(first, _)| first.trim() == variable)
    })
}

/// Parses, looks for names that nobody defines, and tries the expression on an offer that has everything.
fn compile(expression: &str) -> Result<Program, String> {
    let program = Program::compile(expression).map_err(|e| one_line(&e.to_string()))?;
    if let Some(other) = program
        .references()
        .variables()
        .into_iter()
        .find(|v| *v != OFFER && !binds(expression, v))
    {
        return Err(format!("it uses '{other}'; the only variable is '{OFFER}'"));
    }
    match program.execute(&context(&sample())) {
        Ok(Value::Bool(_)) => Ok(program),
        Ok(other) => Err(format!("it gives {}, not true or false", other.type_of())),
        // An extended resource, which has a '/', is in the offers of some cars only.
        Err(ExecutionError::NoSuchKey(key)) if key.contains('/') => Ok(program),
        Err(ExecutionError::NoSuchKey(key)) => Err(format!("an offer has no '{key}'")),
        Err(error) => Err(one_line(&error.to_string())),
    }
}

/// An offer with every field that the API knows, to find misspelt ones.
fn sample() -> serde_json::Value {
    json!({
        "allocatable": { "cpu": "4", "memory": "8Gi", "ephemeral-storage": "16Gi", "pods": "16" },
        "runtimes": ["wasm", "container"],
        "arch": "arm64",
        "classes": ["inference"],
        "freeFor": { "p50": 60, "p90": 60 },
    })
}

fn context(offer: &serde_json::Value) -> Context<'static> {
    let mut context = Context::default().with_all();
    context.add_variable_from_value(OFFER, value(offer));
    context
}

/// JSON as CEL; whole numbers are `int`, as the API server has them, so that they compare with literals.
fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => n
            .as_i64()
            .map_or_else(|| n.as_f64().map_or(Value::Null, Value::Float), Value::Int),
        serde_json::Value::String(s) => Value::String(s.clone().into()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(value).collect::<Vec<_>>().into()),
        serde_json::Value::Object(fields) => {
            let map: std::collections::HashMap<Key, Value> = fields
                .iter()
                .map(|(k, v)| (Key::String(k.clone().into()), value(v)))
                .collect();
            Value::Map(map.into())
        }
    }
}

/// Conditions are read in tables, so a parser's drawing of the place is left out.
fn one_line(text: &str) -> String {
    let first: Vec<&str> = text.lines().filter(|l| !l.starts_with('|')).map(str::trim).collect();
    first.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(expression: &str) -> Rule<'_> {
        Rule {
            name: "r",
            expression,
            message: "not met",
        }
    }

    fn judge(expression: &str, offer: &serde_json::Value) -> Result<(), Unmet> {
        let compiled = Eligibility::compile([rule(expression)]);
        compiled.map_or_else(|e| panic!("{e:?}"), |c| c.judge(offer))
    }

    #[rstest::rstest]
    #[case("offer.freeFor.p90 >= 60")]
    #[case("'inference' in offer.classes && offer.arch == 'arm64'")]
    #[case("quantity(offer.allocatable['memory']).isGreaterThan(quantity('4Gi'))")]
    #[case("offer.runtimes.exists(r, r == 'wasm')")]
    fn expression_that_is_true_makes_the_offer_eligible(#[case] expression: &str) {
        judge(expression, &sample()).unwrap();
    }

    #[test]
    fn expression_that_is_false_gives_its_message() {
        let unmet = judge("offer.freeFor.p90 >= 120", &sample()).unwrap_err();
        assert_eq!((unmet.rule.as_str(), unmet.message.as_str()), ("r", "not met"));
    }

    #[test]
    fn expression_that_cannot_be_evaluated_is_not_met() {
        let unmet = judge("offer.allocatable['kerbside.dev/npu'] == '1'", &sample()).unwrap_err();
        assert!(
            unmet.message.starts_with("not met (") && unmet.message.contains("kerbside.dev/npu"),
            "{unmet:?}"
        );
    }

    #[rstest::rstest]
    #[case("offer.freeFor.p90 >=", "ERROR")]
    #[case("", "")]
    #[case("ofer.freeFor.p90 >= 60", "'ofer'; the only variable is 'offer'")]
    #[case("offer.freeFor.p95 >= 60", "an offer has no 'p95'")]
    #[case("offer.freeFor.p90", "not true or false")]
    #[case("offer.freeFor.p90 >= 'soon'", "")]
    #[case("wish(offer)", "wish")]
    fn expression_that_is_broken_is_named_with_its_fault(#[case] expression: &str, #[case] says: &str) {
        let errors = Eligibility::compile([rule("true"), rule(expression)]).unwrap_err();
        assert_eq!(errors.len(), 1);
        let text = errors[0].to_string();
        assert!(
            text.starts_with("eligibility rule 'r': ") && text.contains(says) && !text.contains('\n'),
            "{text}"
        );
    }

    #[test]
    fn expression_nested_without_end_is_refused_and_harms_nothing() {
        let deep = format!("{}true{}", "(".repeat(500), ")".repeat(500));
        assert!(Eligibility::compile([rule(&deep)]).is_err());
    }
}
