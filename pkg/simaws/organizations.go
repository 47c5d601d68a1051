package simaws

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
)

var organizationsActions map[string]handler

func init() {
	organizationsActions = map[string]handler{"ListAccounts": listAccounts, "DescribeOrganization": describeOrganization, "DescribeAccount": describeAccount}
}

// accountsPerPage is what Organizations answers at most.
const accountsPerPage = 20

type accountJSON struct {
	ID              string `json:"Id"`
	ARN             string `json:"Arn"`
	Name            string
	Email           string
	State           string
	Status          string
	JoinedMethod    string
	JoinedTimestamp float64
}

func (c *call) accountJSON(a *Account) accountJSON {
	out := accountJSON{ID: a.ID, ARN: "arn:aws:organizations::" + c.management().ID + ":account/" + c.s.estate.Organization + "/" + a.ID,
		Name: a.Name, Email: a.Email, State: a.State, JoinedMethod: "CREATED", JoinedTimestamp: float64(a.Joined.Unix())}
	if out.State == "" {
		out.State = "ACTIVE"
	}
	// The older Status knows fewer states.
	switch out.Status = out.State; out.State {
	case "CLOSED":
		out.Status = "SUSPENDED"
	case "PENDING_ACTIVATION":
		out.Status = "ACTIVE"
	}
	return out
}

func (c *call) management() *Account { return c.s.estate.Accounts[0] }

// onlyManagement: the organization answers its management account alone.
func (c *call) onlyManagement() error {
	if c.account != c.management() {
		return c.denied()
	}
	return nil
}

func (c *call) input(v any) error {
	if err := json.Unmarshal(c.body, v); err != nil {
		return fail(400, "SerializationException", "The request is not well formed: %v", err)
	}
	return nil
}

func listAccounts(c *call, _ *xmlWriter) (*answer, error) {
	var in struct {
		MaxResults *int
		NextToken  string
	}
	if err := c.input(&in); err != nil {
		return nil, err
	}
	if err := c.onlyManagement(); err != nil {
		return nil, err
	}
	size, from := accountsPerPage, 0
	if in.MaxResults != nil {
		if size = *in.MaxResults; size < 1 || size > accountsPerPage {
			return nil, fail(400, "InvalidInputException", "You provided a value for MaxResults that is not between 1 and %d.", accountsPerPage)
		}
	}
	if in.NextToken != "" {
		raw, err := base64.StdEncoding.DecodeString(in.NextToken)
		text, ours := strings.CutPrefix(string(raw), c.s.estate.Organization+"/")
		n, numErr := strconv.Atoi(text)
		if err != nil || !ours || numErr != nil || n < 0 || n > len(c.s.estate.Accounts) {
			return nil, fail(400, "InvalidInputException", "You specified an invalid value for nextToken.")
		}
		from = n
	}
	to := min(from+size, len(c.s.estate.Accounts))
	var out struct {
		Accounts  []accountJSON
		NextToken string `json:",omitempty"`
	}
	out.Accounts = []accountJSON{}
	for _, a := range c.s.estate.Accounts[from:to] {
		out.Accounts = append(out.Accounts, c.accountJSON(a))
	}
	if to < len(c.s.estate.Accounts) {
		out.NextToken = base64.StdEncoding.EncodeToString([]byte(c.s.estate.Organization + "/" + strconv.Itoa(to)))
	}
	return jsonAnswer(c, out)
}

func describeOrganization(c *call, _ *xmlWriter) (*answer, error) {
	m := c.management()
	type organization struct {
		ID                 string `json:"Id"`
		ARN                string `json:"Arn"`
		FeatureSet         string
		MasterAccountID    string `json:"MasterAccountId"`
		MasterAccountARN   string `json:"MasterAccountArn"`
		MasterAccountEmail string
	}
	id := c.s.estate.Organization
	return jsonAnswer(c, map[string]organization{"Organization": {
		ID: id, ARN: "arn:aws:organizations::" + m.ID + ":organization/" + id, FeatureSet: "ALL",
		MasterAccountID: m.ID, MasterAccountARN: "arn:aws:organizations::" + m.ID + ":account/" + id + "/" + m.ID, MasterAccountEmail: m.Email,
	}})
}

func describeAccount(c *call, _ *xmlWriter) (*answer, error) {
	var in struct {
		AccountID string `json:"AccountId"`
	}
	if err := c.input(&in); err != nil {
		return nil, err
	}
	if err := c.onlyManagement(); err != nil {
		return nil, err
	}
	a := c.s.estate.Account(in.AccountID)
	if a == nil {
		return nil, fail(400, "AccountNotFoundException", "You specified an account that doesn't exist.")
	}
	return jsonAnswer(c, map[string]accountJSON{"Account": c.accountJSON(a)})
}
