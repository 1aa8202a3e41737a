//! Errors as people read them: the message and then each cause, once.

/// `error` and its causes, separated by colons.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
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

#[cfg(test)]
mod tests {
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
