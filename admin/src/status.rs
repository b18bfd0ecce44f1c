//! Refusals and failures as HTTP statuses and the codes of Headscale's older API: one table.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use state_machine::{Refusal, codes};

use crate::backend::Failure;

/// The numbers gRPC gave to kinds of failure; consoles of Headscale up to 0.29 find them in `code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    Unimplemented = 12,
    Unauthenticated = 16,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unavailable = 14,
}

/// The table for refusals.
pub fn of_refusal(refusal: &Refusal) -> (StatusCode, Code) {
    match refusal {
        Refusal::NotFound { .. } => (StatusCode::NOT_FOUND, Code::NotFound),
        Refusal::Taken { .. } => (StatusCode::CONFLICT, Code::AlreadyExists),
        Refusal::Invalid { .. } => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
        Refusal::UserHasNodes { .. } => (StatusCode::BAD_REQUEST, Code::FailedPrecondition),
        Refusal::KeyUnknown => (StatusCode::NOT_FOUND, Code::NotFound),
        Refusal::KeyExpired => (StatusCode::BAD_REQUEST, Code::FailedPrecondition),
        Refusal::KeyUsed => (StatusCode::BAD_REQUEST, Code::FailedPrecondition),
        Refusal::WrongMachine => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Refusal::TagsNotPermitted { .. } => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
        Refusal::AddressesExhausted { .. } => (StatusCode::CONFLICT, Code::ResourceExhausted),
        Refusal::AddressTaken { .. } => (StatusCode::CONFLICT, Code::AlreadyExists),
        Refusal::AddressUnfit { .. } => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
        Refusal::NameNotOwn { .. } => (StatusCode::FORBIDDEN, Code::PermissionDenied),
        Refusal::TooManyRecords { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted),
        Refusal::TokenUnknown => (StatusCode::NOT_FOUND, Code::NotFound),
        Refusal::TokenExpired => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Refusal::TokenUsed => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Refusal::TokenOutdated => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Refusal::RotationUnderWay { .. } => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Refusal::SecretsChanged => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Refusal::Changed { .. } => (StatusCode::PRECONDITION_FAILED, Code::FailedPrecondition),
        Refusal::AlreadyFounded => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Refusal::NotFounded => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        Refusal::LoginOver => (StatusCode::NOT_FOUND, Code::NotFound),
        Refusal::PolicyRejected { .. } => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
        Refusal::LevelTooLow { .. } | Refusal::ProgramTooOld { .. } | Refusal::UpgradeNotYet { .. } => {
            (StatusCode::CONFLICT, Code::FailedPrecondition)
        }
    }
}

/// The table for failures of the outside.
pub fn of_failure(failure: &Failure) -> (StatusCode, Code) {
    match failure {
        Failure::NoQuorum(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        Failure::Unknown(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        Failure::Unfit(_) | Failure::Unready(..) => (StatusCode::CONFLICT, Code::FailedPrecondition),
        Failure::Refused(refusal) => of_refusal(refusal),
        Failure::Stopped(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        Failure::Closed(number, _) if *number == codes::NO_SPACE.number => {
            (StatusCode::INSUFFICIENT_STORAGE, Code::ResourceExhausted)
        }
        Failure::Closed(..) => (StatusCode::SERVICE_UNAVAILABLE, Code::FailedPrecondition),
    }
}

/// An answer that says no. The body carries both vocabularies: `code, message, details` of Headscale up to 0.29 and
/// `title, status, detail` of 0.30 (RFC 9457).
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: Code,
    /// Its line in the table of codes.
    hsr: &'static codes::Code,
    message: String,
}

impl ApiError {
    /// The kind of failure, by gRPC's number.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Its line in the table of codes.
    pub fn hsr(&self) -> &'static codes::Code {
        self.hsr
    }

    /// What to tell a person.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The request itself is wrong; the text says what would be right.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            code: Code::InvalidArgument,
            hsr: &codes::INVALID,
            message: message.into(),
        }
    }

    /// Nothing there under that name.
    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::NOT_FOUND,
            code: Code::NotFound,
            hsr: &codes::NOT_FOUND,
            message: message.into(),
        }
    }

    /// It does not go together with how things are; `hsr` says more.
    pub fn unfit(hsr: &'static codes::Code, message: impl Into<String>) -> ApiError {
        ApiError { status: StatusCode::CONFLICT, code: Code::FailedPrecondition, hsr, message: message.into() }
    }

    /// The caller may look but not touch.
    pub fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::FORBIDDEN,
            code: Code::PermissionDenied,
            hsr: &codes::FORBIDDEN,
            message: message.into(),
        }
    }

    /// The body is longer than anybody needs.
    pub fn too_large(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: Code::InvalidArgument,
            hsr: &codes::TOO_LARGE,
            message: message.into(),
        }
    }

    /// Nobody said who asks, or it could not be proved.
    pub fn unauthorized(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::UNAUTHORIZED,
            code: Code::Unauthenticated,
            hsr: &codes::UNAUTHORIZED,
            message: message.into(),
        }
    }

    /// Others have it; this server has not.
    pub fn not_implemented(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::NOT_IMPLEMENTED,
            code: Code::Unimplemented,
            hsr: &codes::NOT_HERE,
            message: message.into(),
        }
    }

    /// Something is as it should not be on our side.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: Code::Unknown,
            hsr: &codes::INTERNAL,
            message: message.into(),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let (status, code) = of_refusal(&refusal);
        ApiError { status, code, hsr: refusal.code(), message: refusal.to_string() }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        let (status, code) = of_failure(&failure);
        let hsr = match &failure {
            Failure::NoQuorum(_) => &codes::NO_QUORUM,
            Failure::Unknown(_) => &codes::UNKNOWN_RESULT,
            Failure::Unfit(_) => &codes::UNFIT,
            Failure::Refused(refusal) => refusal.code(),
            Failure::Stopped(_) => &codes::STOPPED,
            Failure::Closed(number, _) | Failure::Unready(number, _) => {
                codes::Code::find(&number.to_string()).unwrap_or(&codes::UNFIT)
            }
        };
        let message = match failure {
            Failure::NoQuorum(why) => {
                format!("the cluster has no quorum at the moment ({why}); nothing changed, try again")
            }
            Failure::Unknown(why) => {
                format!("no answer in time ({why}); the change may or may not have happened, look before trying again")
            }
            Failure::Unfit(why) | Failure::Unready(_, why) => why,
            Failure::Closed(_, why) => format!("no changes are taken: {why}; reading goes on"),
            Failure::Refused(refusal) => refusal.to_string(),
            Failure::Stopped(why) => format!("this member is not serving ({why}); ask another one"),
        };
        ApiError { status, code, hsr, message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({
            "code": self.code as u32,
            "message": self.message,
            "details": [],
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.message,
            "hsr": self.hsr.to_string(),
            "why": self.hsr.why,
            "next": self.hsr.next,
        });
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // For those who tell it in other words.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use state_machine::What;

    use super::*;

    #[test]
    fn the_table() {
        let name = || "x".to_owned();
        let table = [
            (Refusal::NotFound { what: What::User, name: name() }, 404, 5),
            (Refusal::Taken { what: What::User, name: name() }, 409, 6),
            (Refusal::Invalid { what: What::Name, why: name() }, 400, 3),
            (Refusal::UserHasNodes { nodes: 1 }, 400, 9),
            (Refusal::KeyUnknown, 404, 5),
            (Refusal::KeyExpired, 400, 9),
            (Refusal::KeyUsed, 400, 9),
            (Refusal::WrongMachine, 409, 9),
            (Refusal::TagsNotPermitted { tags: vec![] }, 400, 3),
            (Refusal::AddressesExhausted { prefix: name() }, 409, 8),
            (Refusal::AddressTaken { address: name(), node: state_machine::NodeId(1) }, 409, 6),
            (Refusal::AddressUnfit { address: name(), why: name() }, 400, 3),
            (Refusal::NameNotOwn { own: name() }, 403, 7),
            (Refusal::TooManyRecords { most: 8 }, 429, 8),
            (Refusal::TokenUnknown, 404, 5),
            (Refusal::TokenExpired, 409, 9),
            (Refusal::TokenUsed, 409, 9),
            (Refusal::Changed { what: What::Policy }, 412, 9),
            (Refusal::AlreadyFounded, 409, 9),
            (Refusal::NotFounded, 503, 14),
            (Refusal::LoginOver, 404, 5),
            (Refusal::PolicyRejected { why: name() }, 400, 3),
            (Refusal::LevelTooLow { needs: 3, at: 2 }, 409, 9),
            (Refusal::ProgramTooOld { has: 2, needs: 3 }, 409, 9),
            (Refusal::UpgradeNotYet { why: name() }, 409, 9),
        ];
        for (refusal, status, code) in table {
            let error = ApiError::from(refusal.clone());
            assert_eq!((error.status.as_u16(), error.code as u32), (status, code), "{refusal}");
            assert_eq!(error.message, refusal.to_string());
        }
    }

    #[test]
    fn an_absent_quorum_asks_to_come_back() {
        let response = ApiError::from(Failure::NoQuorum("no leader".into())).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
