//! Who is asking, and may they.
//!
//! Two steps, each ending in a value that only this crate can make:
//!
//! ```text
//! certificate chain --authenticate--> Principal --Authority::authorize--> Grant
//! ```
//!
//! One thing goes another way, because it is what mends the first step: new client CAs, by [`Mandate`] of the administrators.
//!
//! A [`Principal`] is a name and a key that the cluster's client CA vouches for at a given time; a [`Grant`] is the right of
//! one principal to one operation on one resource. Whatever executes an operation takes a `Grant`, so that an operation
//! that nobody authorised does not compile.
//!
//! Every node decides for itself on its own replicated state. For t nodes to come to the same answer the crate does no
//! I/O, reads no clock and draws no randomness: roots, policies, time and the facts about a lease are arguments.
//!
//! It refuses to know where a chain came from, whether the request was signed with the principal's key (that is
//! [`quorate_state::request`]), whether the identity is blocked ([`quorate_state::access::is_blocked`]), and what becomes
//! of a grant.

pub mod identity;
pub mod initial;
pub mod mandate;
mod model;
pub mod policy;
pub mod spiffe;

pub use identity::{AuthenticationError, Principal, VerifiedChains, authenticate, root_begin, root_end, told_ahead};
pub use mandate::{Mandate, bearer_name, check_client_roots};
pub use policy::{Authority, Denial, Facts, Grant, LeaseFacts, PolicyError, validate};
