package main

import (
	"net/http"
	"time"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/trustlayerv1"
)

// mostDevices are shown.
const mostDevices = 100

// device is a line of the page.
type device struct {
	Name, ClientIP, LastSeen string
	IsThis                   bool
}

// devices is the page of a user.
type devices struct {
	User    string
	Devices []device
}

// showDevices lists where the user is logged in.
func (a *app) showDevices(w http.ResponseWriter, r *http.Request) {
	session := trustlayer.SessionFrom(r.Context())
	answer, err := a.client.Sessions().ListSessions(r.Context(), &trustlayerv1.ListSessionsRequest{
		UserId: session.GetUser().GetId(), PageSize: mostDevices,
	})
	if err != nil {
		showFailure(w, err)
		return
	}
	page := devices{User: session.GetUser().GetName()}
	for _, one := range answer.GetSessions() {
		page.Devices = append(page.Devices, device{
			Name: one.GetDeviceName(), ClientIP: one.GetClientIp(),
			LastSeen: one.GetLastSeenTime().AsTime().Format(time.RFC3339),
			IsThis:   one.GetHandle() == session.GetHandle(),
		})
	}
	show(w, http.StatusOK, "devices", page)
}

// logOutElsewhere ends the user's other sessions, and waits until no sidecar says yes to any of them.
func (a *app) logOutElsewhere(w http.ResponseWriter, r *http.Request) {
	session := trustlayer.SessionFrom(r.Context())
	_, err := a.client.Sessions().RevokeUserSessions(r.Context(), &trustlayerv1.RevokeUserSessionsRequest{
		UserId: session.GetUser().GetId(), ExceptHandle: session.GetHandle(),
		Wait: trustlayerv1.RevokeWait_REVOKE_WAIT_ALL_SIDECARS,
	})
	if err != nil {
		showFailure(w, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// showAdmin is for administrators, on the very device and browser that they logged in with.
func (a *app) showAdmin(w http.ResponseWriter, r *http.Request) {
	status, err := a.client.Validator().GetStatus(r.Context(), &trustlayerv1.GetStatusRequest{})
	if err != nil {
		showFailure(w, err)
		return
	}
	show(w, http.StatusOK, "admin", status)
}
