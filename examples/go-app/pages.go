package main

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"log"
	"net/http"

	"google.golang.org/grpc/codes"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/guard"
)

//go:embed pages.html
var files embed.FS

var pages = template.Must(template.ParseFS(files, "pages.html"))

// show writes a page, or none of it.
func show(w http.ResponseWriter, status int, page string, data any) {
	var text bytes.Buffer
	if err := pages.ExecuteTemplate(&text, page, data); err != nil {
		log.Println("page", page, "failed:", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(text.Bytes())
}

// showRefusal answers who does not pass the guard.
func showRefusal(w http.ResponseWriter, r *http.Request, refusal *guard.Refusal) {
	switch refusal.Code {
	case codes.Unauthenticated:
		// The cookie stays: where only this page asks for more, the session is still good for the others.
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	case codes.PermissionDenied:
		show(w, http.StatusForbidden, "message", "This page is not for you.")
	case codes.Internal:
		showMistake(w)
	default:
		showUnavailable(w)
	}
}

// showFailure answers where a call failed. What the error says is for the log.
func showFailure(w http.ResponseWriter, err error) {
	log.Println(err)
	if errors.Is(err, trustlayer.ErrUnavailable) {
		showUnavailable(w)
		return
	}
	showMistake(w)
}

func showMistake(w http.ResponseWriter) {
	show(w, http.StatusInternalServerError, "message", "Something went wrong here.")
}

func showUnavailable(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	show(w, http.StatusServiceUnavailable, "message", "This cannot be answered now. Try again in a moment.")
}
