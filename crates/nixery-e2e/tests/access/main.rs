//! Users, tokens, the policy and TLS, as real clients see them.

mod guarded;
mod logins;
mod tls;
mod tokens;
