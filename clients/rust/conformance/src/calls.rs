//! The calls that a case can ask for, each by the client's own way or by its stub.

use std::time::Duration;

use prost::Message;
use tonic::Request;
use trustlayer::{Client, Error, v1};

use crate::answers::{self, Answer};
use crate::conformance::Rpc;
use crate::conformance::driver_response::Result as Outcome;

/// Validate a session.
pub(crate) async fn validate(
    client: &Client,
    question: v1::ValidateRequest,
    timeout: Option<Duration>,
) -> Answer {
    answers::of_validation(client.validate(timed(question, timeout)).await)
}

fn timed<M>(message: M, timeout: Option<Duration>) -> Request<M> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}

/// Writes `rpc`: for each method, the stub that the client hands out and the request that it takes.
macro_rules! rpcs {
    ($($stub:ident $service:literal { $($method:ident $name:literal $message:ident)+ })+) => {
        /// Call a method by its stub.
        pub(crate) async fn rpc(client: &Client, rpc: &Rpc, timeout: Option<Duration>) -> Answer {
            $($(
                if rpc.method == concat!("trustlayer.v1.", $service, "/", $name) {
                    let message = match v1::$message::decode(rpc.request.as_slice()) {
                        Ok(message) => message,
                        Err(error) => return Outcome::Broken(error.to_string()).into(),
                    };
                    let answer = client.$stub().$method(timed(message, timeout)).await;
                    return match answer {
                        Ok(response) => Outcome::Response(response.into_inner().encode_to_vec()).into(),
                        Err(status) => answers::of_error(Error::from(status)),
                    };
                }
            )+)+
            Outcome::Broken(format!("unknown method {}", rpc.method)).into()
        }

        #[cfg(test)]
        const KNOWN: &[&str] = &[$($(concat!($service, "/", $name)),+),+];
    };
}

rpcs! {
    validator "ValidatorService" {
        validate "Validate" ValidateRequest
        get_status "GetStatus" GetStatusRequest
    }
    identity "IdentityService" {
        register_user "RegisterUser" RegisterUserRequest
        get_user "GetUser" GetUserRequest
        look_up_user "LookUpUser" LookUpUserRequest
        list_users "ListUsers" ListUsersRequest
        update_user "UpdateUser" UpdateUserRequest
        disable_user "DisableUser" DisableUserRequest
        enable_user "EnableUser" EnableUserRequest
        delete_user "DeleteUser" DeleteUserRequest
        change_password "ChangePassword" ChangePasswordRequest
        reset_password "ResetPassword" ResetPasswordRequest
        accept_invitation "AcceptInvitation" AcceptInvitationRequest
        start_email_change "StartEmailChange" StartEmailChangeRequest
        confirm_email_change "ConfirmEmailChange" ConfirmEmailChangeRequest
    }
    sessions "SessionService" {
        login "Login" LoginRequest
        login_with_trust_token "LoginWithTrustToken" LoginWithTrustTokenRequest
        reauthenticate "Reauthenticate" ReauthenticateRequest
        logout "Logout" LogoutRequest
        rotate_session "RotateSession" RotateSessionRequest
        list_sessions "ListSessions" ListSessionsRequest
        revoke_session "RevokeSession" RevokeSessionRequest
        revoke_user_sessions "RevokeUserSessions" RevokeUserSessionsRequest
    }
    trust_tokens "TrustTokenService" {
        issue_trust_token "IssueTrustToken" IssueTrustTokenRequest
        check_trust_token "CheckTrustToken" CheckTrustTokenRequest
        consume_trust_token "ConsumeTrustToken" ConsumeTrustTokenRequest
        revoke_trust_tokens "RevokeTrustTokens" RevokeTrustTokensRequest
        get_public_keys "GetPublicKeys" GetPublicKeysRequest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unary_method_of_the_services_on_the_socket_can_be_asked_for() {
        let files = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
        let services = ["ValidatorService", "IdentityService", "SessionService", "TrustTokenService"];
        let mut unary: Vec<String> = files
            .file
            .iter()
            .flat_map(|file| &file.service)
            .filter(|service| services.contains(&service.name()))
            .flat_map(|service| {
                service
                    .method
                    .iter()
                    .filter(|method| !method.client_streaming() && !method.server_streaming())
                    .map(|method| format!("{}/{}", service.name(), method.name()))
            })
            .collect();
        let mut known = KNOWN.to_vec();
        unary.sort();
        known.sort_unstable();
        assert_eq!(unary, known);
    }
}
