package app

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	"nightshift.dev/pkg/auth"
)

// Services of one process call each other through memory. The caller says who
// he is when he connects, and is believed: nobody else can come this way.

// memoryListener marks its connections.
type memoryListener struct{ *bufconn.Listener }

type memoryConn struct{ net.Conn }

func (l memoryListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return memoryConn{c}, nil
}

// memoryInfo is who is at the other end of a connection through memory.
type memoryInfo struct {
	credentials.CommonAuthInfo
	caller auth.Principal
}

func (memoryInfo) AuthType() string { return "memory" }

// secure is what both ends of such a connection are.
var secure = credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}

// memoryCredentials are the client's end.
type memoryCredentials struct{ caller auth.Principal }

func (m memoryCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	b, err := proto.Marshal(m.caller.Proto())
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
		return nil, nil, err
	}
	return c, memoryInfo{CommonAuthInfo: secure}, nil
}

func (memoryCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("app: the client's end of memory serves nobody")
}
func (memoryCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "memory"}
}
func (m memoryCredentials) Clone() credentials.TransportCredentials { return m }
func (memoryCredentials) OverrideServerName(string) error           { return nil }

// door is the server's end of all connections, those through memory and those
// over the network.
type door struct {
	credentials.TransportCredentials
}

func newDoor(s Security) door {
	if s.TLS == nil {
		return door{insecure.NewCredentials()}
	}
	return door{credentials.NewTLS(s.TLS.Server())}
}

func (d door) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	m, ok := c.(memoryConn)
	if !ok {
		return d.TransportCredentials.ServerHandshake(c)
	}
	var size [2]byte
	if _, err := io.ReadFull(m, size[:]); err != nil {
		return nil, nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(m, b); err != nil {
		return nil, nil, err
	}
	var p auditv1.Principal
	if err := proto.Unmarshal(b, &p); err != nil {
		return nil, nil, err
	}
	return m, memoryInfo{secure, auth.Principal{Kind: p.GetKind(), Name: p.GetName(), ID: p.GetId(), Role: p.GetRole(), Accounts: p.GetAccounts()}}, nil
}

func (d door) Clone() credentials.TransportCredentials { return door{d.TransportCredentials.Clone()} }
