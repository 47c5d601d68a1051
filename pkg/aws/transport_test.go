package aws

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
)

// sdkBody is a request body as the SDK makes it: once it was closed, Read
// reports the end and WriteTo reports it as an error. Looking for its end
// waits until it is closed, as happens by chance with a fast server.
type sdkBody struct {
	data   *strings.Reader
	once   sync.Once
	closed chan struct{}
}

func (b *sdkBody) Read(p []byte) (int, error) {
	if b.data.Len() > 0 {
		return b.data.Read(p)
	}
	<-b.closed
	return 0, io.EOF
}

func (b *sdkBody) WriteTo(io.Writer) (int64, error) {
	<-b.closed
	return 0, io.EOF
}

func (b *sdkBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

type doFunc func(*http.Request) (*http.Response, error)

func (f doFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }

// The server answers before net/http has seen the end of the request's body,
// and the body is closed then. The rest of the answer must still arrive.
func TestAnswerBeforeTheRequestsEnd(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	closed := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		_, _ = w.Write(make([]byte, size/2))
		_ = http.NewResponseController(w).Flush()
		<-closed
		_, _ = w.Write(make([]byte, size/2))
	}))
	t.Cleanup(srv.Close)
	body := &sdkBody{data: strings.NewReader("Action=DescribeVolumes"), closed: closed}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = body.data.Size()
	resp, err := (client{srv.Client()}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body.Close() // as the SDK does once headers arrive
	if got, err := io.ReadAll(resp.Body); err != nil || len(got) != size {
		t.Errorf("read %d of %d bytes: %v", len(got), size, err)
	}
}

func TestTransportLeavesTheRequestAlone(t *testing.T) {
	t.Parallel()
	body := &sdkBody{data: strings.NewReader("x"), closed: make(chan struct{})}
	r := httptest.NewRequest(http.MethodPost, "http://aws/", body)
	var sent io.ReadCloser
	var next sdk.HTTPClient = doFunc(func(r *http.Request) (*http.Response, error) {
		sent = r.Body
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("answer"))}, nil
	})
	resp, err := (client{next}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := sent.(io.WriterTo); ok || sent == nil {
		t.Errorf("net/http got a body of type %T", sent)
	}
	if r.Body != body {
		t.Error("the SDK's request was changed")
	}
	defer resp.Body.Close()
	// Reading byte for byte, or all at once, gives the whole answer.
	got := &bytes.Buffer{}
	one := make([]byte, 1)
	for range 3 {
		n, _ := resp.Body.Read(one)
		got.Write(one[:n])
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || got.String()+string(rest) != "answer" {
		t.Errorf("got %q and %q, %v", got, rest, err)
	}
}
