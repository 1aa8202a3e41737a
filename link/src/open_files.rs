//! How many files a process may have open: every connection is one.
//!
//! Called at the start of programs that hold thousands of connections. Shells and containers often begin with 1,024, which is the soft
//! limit; a process may raise it up to the hard one by itself.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of this process as far as it may; gives what it is then.
pub fn raise_limit() -> std::io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_the_hard_one_afterwards() {
        let limit = raise_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
        assert_eq!(raise_limit().unwrap(), limit);
    }
}
