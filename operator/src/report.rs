//! Errors as people read them: the message and then each cause, once; of an API server's answer only what it says.

/// `error` and its causes, separated by colons.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(answer) = api_answer(cause) {
            text.push_str(": ");
            text.push_str(&answer);
            break;
        }
        let next = cause.to_string();
        // Some libraries repeat their cause in their own message.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    text
}

/// What the API server says, without the dump of its Status that the client's error carries.
fn api_answer(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let boxed = cause.downcast_ref::<Box<kube::Error>>().map(|b| &**b);
    match cause.downcast_ref::<kube::Error>().or(boxed)? {
        kube::Error::Api(status) if !status.message.is_empty() => Some(format!("{} ({})", status.message, status.code)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn answer_of_the_api_server_is_its_message_and_code() {
        let status = serde_json::json!({ "message": "pods \"x\" is forbidden: exceeded quota", "code": 403 });
        let source = kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()));
        let error = crate::fleet_job::Error::Create(Box::new(source));
        let text = super::with_causes(&error);
        assert_eq!(
            text,
            "failed to create Pod: pods \"x\" is forbidden: exceeded quota (403)"
        );
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        #[source]
        source: Option<Box<Self>>,
    }

    #[test]
    fn causes_follow_in_order_and_repeated_ones_are_left_out() {
        let last = Link {
            text: "refused",
            source: None,
        };
        let middle = Link {
            text: "no answer (refused)",
            source: Some(Box::new(last)),
        };
        let first = Link {
            text: "failed to write",
            source: Some(Box::new(middle)),
        };
        assert_eq!(super::with_causes(&first), "failed to write: no answer (refused)");
    }
}
