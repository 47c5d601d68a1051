// Findings asks the API for the dearest open findings: what another team's
// service would do. It calls with the token that "nightshift up" leaves in its
// data directory, or the one in NIGHTSHIFT_TOKEN.
//
//	go run ./examples/findings
//	NIGHTSHIFT_PERSISTENCE_ADDR=127.0.0.1:7306 NIGHTSHIFT_DATA_DIR=.nightshift go run ./examples/findings
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
)

func main() {
	log.SetFlags(0)
	addr := os.Getenv("NIGHTSHIFT_PERSISTENCE_ADDR")
	if addr == "" {
		addr = "127.0.0.1:7306"
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	token := os.Getenv("NIGHTSHIFT_TOKEN")
	dir := os.Getenv("NIGHTSHIFT_DATA_DIR")
	if dir == "" {
		dir = ".nightshift"
	}
	if b, err := os.ReadFile(filepath.Join(dir, "token")); token == "" && err == nil {
		token = strings.TrimSpace(string(b))
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	resp, err := findingv1.NewFindingServiceClient(conn).ListFindings(ctx, &findingv1.ListFindingsRequest{
		Filter:   `state != "RESOLVED" AND state != "EXEMPT" AND severity >= "MEDIUM"`,
		OrderBy:  "monthly_cost desc",
		PageSize: 5,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range resp.GetFindings() {
		fmt.Printf("$%9.2f  %-16s %s  %s\n", f.GetMonthlyCost().GetHigh(), f.GetRuleId(), f.GetResource().GetId(), f.GetReason())
	}
}
