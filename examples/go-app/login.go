package main

import (
	"errors"
	"log"
	"net/http"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/trustlayerv1"
)

func (a *app) showLogin(w http.ResponseWriter, _ *http.Request) {
	show(w, http.StatusOK, "login", "")
}

// logIn gives the browser a session. The session is bound to the context that the guard sees, so that later requests
// are compared with the same.
func (a *app) logIn(w http.ResponseWriter, r *http.Request) {
	answer, err := a.client.Sessions().Login(r.Context(), &trustlayerv1.LoginRequest{
		Login:      r.PostFormValue("login"),
		Password:   r.PostFormValue("password"),
		Context:    a.guard.RequestContext(r),
		DeviceName: deviceName(r),
	})
	if failed, is := errors.AsType[*trustlayer.CallError](err); is {
		// What is wrong with it is not said: LOGIN_REFUSED does not say either.
		switch failed.Reason {
		case "LOGIN_REFUSED", "INVALID_FIELD":
			show(w, http.StatusUnauthorized, "login", "That is not a user of ours with this password.")
			return
		case "TOO_MANY_ATTEMPTS":
			show(w, http.StatusTooManyRequests, "login", "Too many attempts: try again in a while.")
			return
		}
	}
	if err != nil {
		showFailure(w, err)
		return
	}
	setCookie(w, sessionCookie, answer.GetSessionId(), 0)
	if err := a.endSentSession(r); err != nil {
		log.Println("the session that this browser had before goes on until it expires:", err)
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// deviceName is how the user finds this device in the list.
func deviceName(r *http.Request) string {
	name := []rune(r.UserAgent())
	return string(name[:min(len(name), 60)])
}

// logOut ends this session, and only then has the browser forget it: while the sidecar is away nobody is told that they
// are out.
func (a *app) logOut(w http.ResponseWriter, r *http.Request) {
	if err := a.endSentSession(r); err != nil {
		showFailure(w, err)
		return
	}
	endSession(w)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// endSentSession ends the session whose id the browser sent, if it sent one. No guard has looked at it, and it need not
// be active.
func (a *app) endSentSession(r *http.Request) error {
	sent, err := r.Cookie(sessionCookie)
	if err != nil {
		return nil // only http.ErrNoCookie
	}
	_, err = a.client.Sessions().Logout(r.Context(), &trustlayerv1.LogoutRequest{SessionId: sent.Value})
	if failed, is := errors.AsType[*trustlayer.CallError](err); is && failed.Reason == "INVALID_FIELD" {
		return nil // what is no session id names no session
	}
	return err
}
