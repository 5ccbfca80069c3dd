package app

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"kexrelay/internal/config"
	"kexrelay/internal/fault"
	"kexrelay/internal/kex"
)

// lookupTimeout bounds one look-up of a name.
const lookupTimeout = 5 * time.Second

// Finding is what one check of the way to the API gave.
type Finding struct {
	// Check says what was looked at.
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	// Detail is what was found, Do the next step if it is not well.
	Detail string `json:"detail,omitempty"`
	Do     string `json:"do,omitempty"`
}

// CheckAPI looks at the way from this machine to the API as serve would go it: names, proxy, TLS, token with its scopes.
// It books nothing: all it asks for is a token, and {base} by GET.
func CheckAPI(ctx context.Context, cfg config.Serve, version string) []Finding {
	var found []Finding
	for _, at := range []struct{ name, url string }{{"token endpoint", cfg.KEX.TokenURL}, {"API", cfg.KEX.BaseURL}} {
		found = append(found, checkName(ctx, at.name, at.url))
	}
	client, err := kex.New(kex.Config{
		BaseURL: cfg.KEX.BaseURL, TokenURL: cfg.KEX.TokenURL,
		ClientID: cfg.KEX.ClientID, ClientSecret: cfg.KEX.ClientSecret, Scopes: cfg.KEX.Scopes,
		ImpersonateSubject: cfg.KEX.ImpersonateSubject, ImpersonateActor: cfg.KEX.ImpersonateActor,
		RequestTimeout: cfg.KEX.RequestTimeout, CAFile: cfg.KEX.CAFile, InsecureHTTP: cfg.KEX.InsecureHTTP,
		TracePrefix: cfg.Relay.TracePrefix, UserAgent: "kexrelay/" + version,
	})
	if err != nil {
		return append(found, Finding{Check: "client", Detail: err.Error(), Do: "mend the options it names"})
	}
	defer client.Close()
	return append(found, checkToken(ctx, client), checkBase(ctx, client))
}

// checkName looks the host up that would be connected to: the URL's, or its proxy's.
func checkName(ctx context.Context, name, address string) Finding {
	f := Finding{Check: "DNS of the " + name}
	u, err := url.Parse(address)
	if err != nil {
		f.Detail, f.Do = "not a URL", "mend it in the configuration"
		return f
	}
	host, by := u.Hostname(), ""
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	switch {
	case err != nil:
		f.Detail, f.Do = "the proxy in the environment cannot be read", "mend HTTPS_PROXY"
		return f
	case proxy != nil:
		host, by = proxy.Hostname(), " (the proxy for "+u.Hostname()+")"
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		f.Detail, f.Do = host+by+": "+err.Error(), "check the name, this machine's resolver and, if it needs a proxy, HTTPS_PROXY"
		return f
	}
	f.OK, f.Detail = true, host+by+" is "+addresses[0]
	return f
}

func checkToken(ctx context.Context, client *kex.Client) Finding {
	f := Finding{Check: "token"}
	err := client.Authorize(ctx)
	if err == nil {
		f.OK, f.Detail = true, "given for the configured scopes"
		return f
	}
	found := fault.Of(err)
	f.Detail = told(found)
	f.Do = "check the way to KEX_TOKEN_URL: network, proxy (HTTPS_PROXY), certificates (KEX_CA_FILE)"
	if found.Kind == fault.Systemic {
		f.Do = "check KEX_CLIENT_ID, the secret and KEX_SCOPES with what Partnermanagement shows for the client"
	}
	return f
}

func checkBase(ctx context.Context, client *kex.Client) Finding {
	f := Finding{Check: "API"}
	if err := client.Ping(ctx, ""); err != nil {
		f.Detail = told(fault.Of(err))
		f.Do = "check the way to KEX_BASE_URL: network, proxy (HTTPS_PROXY), certificates (KEX_CA_FILE); if all is well, the API is down"
		return f
	}
	f.OK, f.Detail = true, "answers (nothing was booked)"
	return f
}

func told(f *fault.Error) string {
	if f.Detail != "" {
		return f.Detail
	}
	return f.Error()
}
