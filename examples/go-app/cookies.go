package main

import (
	"crypto/rand"
	"net/http"
	"time"
)

const (
	// The prefix __Host- has browsers take them from this very host only, over https or from localhost.
	sessionCookie = "__Host-session_id"
	deviceCookie  = "__Host-device_id"
	// deviceHeader carries the device cookie from withDevice to the guard.
	deviceHeader = "X-Device-Fingerprint"

	deviceLifetime = 365 * 24 * time.Hour
)

// setCookie sets a cookie that no script reads and no other site's form sends along. Without a lifetime it ends with
// the browser; a negative one deletes it.
func setCookie(w http.ResponseWriter, name, value string, lifetime time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(lifetime / time.Second),
		HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
	})
}

func endSession(w http.ResponseWriter) { setCookie(w, sessionCookie, "", -time.Second) }

// withDevice gives each browser a random name, which it keeps, and tells it to the guard as the device fingerprint. What
// a client sends in the header itself counts for nothing.
func withDevice(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		device, err := r.Cookie(deviceCookie)
		if err != nil || device.Value == "" {
			device = &http.Cookie{Value: rand.Text()}
			setCookie(w, deviceCookie, device.Value, deviceLifetime)
		}
		r.Header.Set(deviceHeader, device.Value)
		next.ServeHTTP(w, r)
	})
}
