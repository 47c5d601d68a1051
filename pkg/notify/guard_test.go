package notify

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

func TestReachable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		addrs           string
		public, allowed bool // without and with private addresses
	}{
		{"1.1.1.1 52.95.110.1 2606:4700::1111 2a05:d018::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1", true, true},
		{"127.0.0.1 127.255.0.9 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.255 ::1 fd12::1 fc00::1", false, true},
		{"::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 64:ff9b::7f00:1", false, true},
		{"169.254.169.254 169.254.170.2 169.254.170.23 fe80::1 fe80::1%eth0 fd00:ec2::254 fd00:ec2::23 168.63.129.16 100.100.100.200 192.0.0.192", false, false},
		{"::ffff:169.254.169.254 64:ff9b::169.254.169.254 0.0.0.0 0.1.2.3 :: 224.0.0.1 255.255.255.255 240.0.0.1 ff02::1 fec0::1", false, false},
		{"192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 192.88.99.1 2001:db8::1 2001::1 2002:7f00:1::1 2002:a9fe:a9fe:: ::7f00:1 64:ff9b:1::1 100::1 3fff::1 5f00::1", false, false},
		{"172.15.255.255 172.32.0.0 100.63.255.255 100.128.0.0 11.0.0.0 9.255.255.255 192.167.255.255 223.255.255.255", true, true},
	} {
		for text := range strings.FieldsSeq(tt.addrs) {
			addr := netip.MustParseAddr(text)
			if got := reachable(addr, false); got != tt.public {
				t.Errorf("%s: %v", text, got)
			}
			if got := reachable(addr, true); got != tt.allowed {
				t.Errorf("%s, with private addresses: %v", text, got)
			}
		}
	}
	if reachable(netip.Addr{}, true) {
		t.Error("no address at all is reachable")
	}
}

// However an address is spelt, and whatever name leads to it: what counts is
// where the connection would go.
func TestPrivateAddressesAreRefused(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(srv.Close)
	port := srv.URL[strings.LastIndexByte(srv.URL, ':'):]
	s := sender(t, Config{}, map[string]string{"SIGN": signingSecret, "KEY": "k"})
	for _, host := range []string{
		"127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0",
		"[::1]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "[64:ff9b::7f00:1]", "[::]", "①②⑦.⓪.⓪.①",
	} {
		f := failure(t, s, envelope(webhookTo("http://"+host+port+"/", "env:NIGHTSHIFT_SECRET_SIGN"), one("x")))
		// Some systems know names such as 127.1, others do not.
		if !strings.Contains(f.Detail, "not allowed") && !strings.Contains(f.Detail, "no such host") && !strings.Contains(f.Detail, "looked up") && !strings.Contains(f.Detail, "is no URL") {
			t.Errorf("%s: %s", host, f.Detail)
		}
		if !f.Receiver {
			t.Errorf("%s is the message's fault", host)
		}
	}
	if f := failure(t, s, envelope(webhookTo("http://localhost"+port+"/", "env:NIGHTSHIFT_SECRET_SIGN"), one("x"))); !f.Permanent || !strings.Contains(f.Detail, "not allowed") {
		t.Errorf("a name for loopback: %+v", f)
	}
	if n := hits.Load(); n > 0 {
		t.Errorf("%d requests got through", n)
	}
	// The metadata of a cloud stays out of reach where private addresses are allowed.
	open := sender(t, Config{AllowPrivate: true}, map[string]string{"SIGN": signingSecret})
	for _, host := range []string{"169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "0.0.0.0"} {
		if f := failure(t, open, envelope(webhookTo("http://"+host+"/latest/meta-data/", "env:NIGHTSHIFT_SECRET_SIGN"), one("x"))); !f.Permanent || !strings.Contains(f.Detail, "not allowed") {
			t.Errorf("%s: %+v", host, f)
		}
	}
	send(t, open, envelope(webhookTo(srv.URL, "env:NIGHTSHIFT_SECRET_SIGN"), one("x")))
	if hits.Load() != 1 {
		t.Error("a private address is out of reach where it is allowed")
	}
}

func TestAddressesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	s := sender(t, Config{}, map[string]string{
		"SIGN": signingSecret, "PLAIN": "http://hooks.slack.com/services/T/B/x", "FILE": "file:///etc/passwd", "USER": "https://user:pass@hooks.slack.com/", "NONE": "hooks.slack.com/x",
	})
	for name, e := range map[string]Envelope{
		"credentials": envelope(webhookTo("https://user:pass@example.com/", "env:NIGHTSHIFT_SECRET_SIGN"), one("x")),
		"scheme":      envelope(webhookTo("gopher://example.com/", "env:NIGHTSHIFT_SECRET_SIGN"), one("x")),
		"no host":     envelope(webhookTo("https:///x", "env:NIGHTSHIFT_SECRET_SIGN"), one("x")),
		"control":     envelope(webhookTo("https://example.com/\r\nX: y", "env:NIGHTSHIFT_SECRET_SIGN"), one("x")),
		"slack http":  envelope(slackTo("env:NIGHTSHIFT_SECRET_PLAIN"), one("x")),
		"teams file":  envelope(teamsTo("env:NIGHTSHIFT_SECRET_FILE"), one("x")),
		"teams user":  envelope(teamsTo("env:NIGHTSHIFT_SECRET_USER"), one("x")),
		"slack none":  envelope(slackTo("env:NIGHTSHIFT_SECRET_NONE"), one("x")),
		"pager http":  envelope(pagerTo("env:NIGHTSHIFT_SECRET_SIGN", "http://events.pagerduty.com"), one("x")),
	} {
		if f := failure(t, s, e); !f.Permanent || !f.Receiver {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
