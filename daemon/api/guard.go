package api

import (
	"net/http"
	"net/netip"
	"net/url"
)

// guard refuses what a web page on another machine has a browser send here: browsers tell the page's origin, and, where its
// name was made to lead to this machine, the name.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, err := url.Parse(r.Header.Get("Origin"))
		switch {
		case !isLocal(r.Host):
			refuse(w, http.StatusForbidden, "the Host "+r.Host+" is not this machine")
		case err != nil || r.Header.Get("Origin") != "" && !isLocal(origin.Host):
			refuse(w, http.StatusForbidden, "requests from "+r.Header.Get("Origin")+" are not answered")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isLocal reports whether a host, with or without a port, is this machine under a name that nobody else can give it.
func isLocal(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.IsLoopback()
}
