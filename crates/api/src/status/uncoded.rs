//! What the gRPC library refuses by itself, before any handler of ours: a message that does not decode, one that is too
//! long, a call that does not exist. Its statuses carry no code, and every error of a port has one.

use super::{DEADLINE, Failure, INTERNAL, MALFORMED, TOO_LARGE, TRAILER};
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::{Code, Status};
use tower::util::MapResponseLayer;

/// The layer that gives a code to every status of a port that has none. To be put around the services of a client's port.
#[must_use]
pub fn coded() -> MapResponseLayer<fn(Response<Body>) -> Response<Body>> {
    MapResponseLayer::new(code)
}

fn code(response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key(TRAILER) {
        return response;
    }
    // A refusal before the first message stands in the headers; answers carry their status behind their messages.
    let Some(status) = Status::from_header_map(response.headers()).filter(|s| s.code() != Code::Ok) else {
        return response;
    };
    let code = match status.code() {
        Code::Internal | Code::Unimplemented | Code::InvalidArgument => MALFORMED,
        Code::OutOfRange => TOO_LARGE,
        Code::Cancelled | Code::DeadlineExceeded => DEADLINE,
        _ => INTERNAL,
    };
    let what = match status.message() {
        "" => "there is no such call",
        what => what,
    };
    Status::from(Failure::new(code, what)).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: Status) -> Failure {
        let response = code(status.into_http());
        Failure::from(Status::from_header_map(response.headers()).unwrap())
    }

    #[test]
    fn what_the_library_refuses_has_a_code_and_what_we_refuse_keeps_its_own() {
        for (status, code) in [
            (Status::internal("failed to decode Protobuf message"), MALFORMED),
            (Status::unimplemented(""), MALFORMED),
            (Status::out_of_range("decoded message length too large"), TOO_LARGE),
            (Status::cancelled("Timeout expired"), DEADLINE),
            (Status::unknown("?"), INTERNAL),
        ] {
            let failure = told(status.clone());
            assert_eq!(failure.code, code, "{status:?}");
            assert!(failure.message.contains(status.message()), "{failure}");
        }
        assert_eq!(told(Failure::new("denied", "no").into()).code, "denied");
        assert!(code(Response::new(Body::empty())).headers().is_empty());
    }
}
