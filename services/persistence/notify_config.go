package persistence

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// The most there may be: everything is read at once, and by people.
const (
	maxReceivers = 1000
	maxRoutes    = 1000
	maxContacts  = 10_000
	maxSilences  = 1000 // that have not ended
)

// receiverRow is a row of receivers.
type receiverRow struct {
	bun.BaseModel `bun:"table:receivers,alias:r"`

	Name       string    `bun:",pk"`
	Paused     bool      `bun:""`
	Version    string    `bun:""`
	CreateTime time.Time `bun:""`
	UpdateTime time.Time `bun:""`
	Body       []byte    `bun:""`
}

// routeRow is a row of routes.
type routeRow struct {
	bun.BaseModel `bun:"table:routes,alias:r"`

	Name       string    `bun:",pk"`
	Position   int32     `bun:""`
	Receivers  []string  `bun:",array"`
	Version    string    `bun:""`
	CreateTime time.Time `bun:""`
	UpdateTime time.Time `bun:""`
	Body       []byte    `bun:""`
}

// contactRow is a row of contacts.
type contactRow struct {
	bun.BaseModel `bun:"table:contacts,alias:c"`

	Key        string    `bun:",pk"`
	Owner      string    `bun:""`
	Receivers  []string  `bun:",array"`
	Version    string    `bun:""`
	UpdateTime time.Time `bun:""`
}

var contactOrder = order[*contactRow]{{expr: "c.key", key: textKey(func(c *contactRow) string { return c.Key })}}

// contactKey is an owner without regard to case.
func contactKey(owner string) string { return strings.ToLower(strings.TrimSpace(owner)) }

func (r *receiverRow) proto() (*notificationv1.Receiver, error) {
	p := &notificationv1.Receiver{}
	err := proto.Unmarshal(r.Body, p)
	p.Etag, p.CreateTime, p.UpdateTime = r.Version, timestamppb.New(r.CreateTime), timestamppb.New(r.UpdateTime)
	return p, err
}

func (r *routeRow) proto() (*notificationv1.Route, error) {
	p := &notificationv1.Route{}
	err := proto.Unmarshal(r.Body, p)
	p.Etag, p.CreateTime, p.UpdateTime = r.Version, timestamppb.New(r.CreateTime), timestamppb.New(r.UpdateTime)
	return p, err
}

func (c *contactRow) proto() *notificationv1.Contact {
	return &notificationv1.Contact{Owner: c.Owner, Receivers: c.Receivers, Etag: c.Version, UpdateTime: timestamppb.New(c.UpdateTime)}
}

// configChanges begins a change of who hears of what: it waits for others who
// are at it, and returns the new version, which is the etag of what changes. No
// version comes twice, whatever is deleted and made again.
func (tx *transaction) configChanges(ctx context.Context) (version string, err error) {
	version = strings.ToLower(rand.Text())
	_, err = tx.NewRaw("UPDATE notify_config SET version = ?", version).Exec(ctx)
	return version, err
}

// matchEtag refuses what somebody has changed since, or made.
func matchEtag(what, present, etag string, createOnly bool) error {
	switch {
	case createOnly && present != "":
		return errs.New(errs.AlreadyExists, "ALREADY_EXISTS", "%s is there already", what)
	case etag != "" && present == "":
		return errs.New(errs.NotFound, "NOT_FOUND", "there is no %s any more", what)
	case etag != "" && etag != present:
		return errs.New(errs.Aborted, "STALE_ETAG", "%s has changed since it was read: its etag is %s now; read it again", what, present)
	}
	return nil
}

// scanOne reads one row, and returns whether there is one.
func scanOne(ctx context.Context, q *bun.SelectQuery) (bool, error) {
	err := q.Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// checkRoom refuses one more row than there may be.
func (tx *transaction) checkRoom(ctx context.Context, table, what string, most int) error {
	n, err := tx.NewSelect().TableExpr(table).Count(ctx)
	if err == nil && int(n) >= most {
		return errs.New(errs.FailedPrecondition, "TOO_MANY", "there are %d %s, and may be no more; delete one first", n, what)
	}
	return err
}

// checkReceivers refuses names of receivers that there are not.
func (tx *transaction) checkReceivers(ctx context.Context, e *errs.Error, field string, names []string) error {
	var there []string
	if err := tx.NewRaw("SELECT name FROM receivers WHERE name = ANY(?)", pgdialect.Array(names)).Scan(ctx, &there); err != nil {
		return err
	}
	for i, name := range names {
		if !slices.Contains(there, name) {
			e.Field(fmt.Sprintf("%s[%d]", field, i), "is %q, and there is no such receiver; make it first", name)
		}
	}
	return nil
}

// SetReceiver implements NotificationConfigService.
func (s *Service) SetReceiver(ctx context.Context, req *notificationv1.SetReceiverRequest) (*notificationv1.SetReceiverResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	e := errs.New(errs.InvalidArgument, "BAD_RECEIVER", "the receiver cannot be kept")
	p := proto.CloneOf(req.GetReceiver())
	checkReceiver(p, e)
	if len(e.Violations()) > 0 {
		return nil, e
	}
	etag := p.GetEtag()
	p.Etag, p.CreateTime, p.UpdateTime, p.Health = "", nil, nil, nil
	body, err := proto.Marshal(p)
	if err != nil {
		return nil, err
	}
	var set *notificationv1.Receiver
	err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		version, err := tx.configChanges(ctx)
		if err != nil {
			return err
		}
		row := &receiverRow{}
		there, err := scanOne(ctx, tx.NewSelect().Model(row).Where("r.name = ?", p.GetName()))
		if err != nil {
			return err
		}
		if err := matchEtag("receiver "+p.GetName(), row.Version, etag, req.GetCreateOnly()); err != nil {
			return err
		}
		now := micros(tx.now)
		if !there {
			if err := tx.checkRoom(ctx, "receivers", "receivers", maxReceivers); err != nil {
				return err
			}
			row.CreateTime = now
		} else {
			was, err := row.proto()
			if err != nil {
				return err
			}
			app.Before(ctx, was)
		}
		row.Name, row.Paused, row.Version, row.UpdateTime, row.Body = p.GetName(), p.GetPaused(), version, now, body
		if _, err := tx.NewInsert().Model(row).On("CONFLICT (name) DO UPDATE").
			Set("paused = EXCLUDED.paused").Set("version = EXCLUDED.version").Set("update_time = EXCLUDED.update_time").Set("body = EXCLUDED.body").Exec(ctx); err != nil {
			return err
		}
		if set, err = row.proto(); err != nil {
			return err
		}
		set.Health, err = tx.healthOf(ctx, row.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, set)
	return &notificationv1.SetReceiverResponse{Receiver: set}, nil
}

func readReceiver(ctx context.Context, q *bun.SelectQuery, name string) (*receiverRow, error) {
	r := &receiverRow{}
	there, err := scanOne(ctx, q.Model(r).Where("r.name = ?", name))
	if err == nil && !there {
		err = errs.New(errs.NotFound, "RECEIVER_NOT_FOUND", "there is no receiver %s", name)
	}
	return r, fault(err)
}

// GetReceiver implements NotificationConfigService.
func (s *Service) GetReceiver(ctx context.Context, req *notificationv1.GetReceiverRequest) (*notificationv1.GetReceiverResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	row, err := readReceiver(ctx, db.NewSelect(), req.GetName())
	if err != nil {
		return nil, err
	}
	r, err := row.proto()
	if err != nil {
		return nil, err
	}
	all, err := healths(ctx, db, []string{row.Name})
	r.Health = all[row.Name]
	return &notificationv1.GetReceiverResponse{Receiver: r}, err
}

// ListReceivers implements NotificationConfigService.
func (s *Service) ListReceivers(ctx context.Context, _ *notificationv1.ListReceiversRequest) (*notificationv1.ListReceiversResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	receivers, err := allReceivers(ctx, db)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(receivers))
	for i, r := range receivers {
		names[i] = r.GetName()
	}
	all, err := healths(ctx, db, names)
	if err != nil {
		return nil, err
	}
	for _, r := range receivers {
		r.Health = all[r.GetName()]
	}
	return &notificationv1.ListReceiversResponse{Receivers: receivers}, nil
}

func allReceivers(ctx context.Context, db bun.IDB) (out []*notificationv1.Receiver, err error) {
	var rows []*receiverRow
	if err := db.NewSelect().Model(&rows).Order("r.name").Scan(ctx); err != nil {
		return nil, fault(err)
	}
	for _, row := range rows {
		r, err := row.proto()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// DeleteReceiver implements NotificationConfigService. What waits for it is
// dead.
func (s *Service) DeleteReceiver(ctx context.Context, req *notificationv1.DeleteReceiverRequest) (*notificationv1.DeleteReceiverResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	resp := &notificationv1.DeleteReceiverResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if _, err := tx.configChanges(ctx); err != nil {
			return err
		}
		row, err := readReceiver(ctx, tx.NewSelect(), req.GetName())
		if err != nil {
			return err
		}
		if err := matchEtag("receiver "+row.Name, row.Version, req.GetEtag(), false); err != nil {
			return err
		}
		var users []string
		err = tx.NewRaw("SELECT 'route ' || name FROM routes WHERE ? = ANY(receivers) UNION ALL SELECT 'the contact of ' || owner FROM contacts WHERE ? = ANY(receivers) ORDER BY 1",
			row.Name, row.Name).Scan(ctx, &users)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			more := ""
			if len(users) > 5 {
				more = fmt.Sprintf(" and %d more", len(users)-5)
			}
			return errs.New(errs.FailedPrecondition, "RECEIVER_IN_USE", "receiver %s is named by %s%s; take it out of there first", row.Name, strings.Join(users[:min(5, len(users))], ", "), more)
		}
		was, err := row.proto()
		if err != nil {
			return err
		}
		app.Before(ctx, was)
		// Whoever makes deliveries keeps the receiver until they are visible here.
		if _, err := tx.NewDelete().Model(row).WherePK().Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewRaw("SELECT FROM deliveries WHERE receiver = ? AND state = 1 ORDER BY id FOR UPDATE", row.Name).Exec(ctx); err != nil {
			return err
		}
		resp.DroppedDeliveries, err = tx.rows(ctx, "UPDATE deliveries SET state = 3, next_attempt_time = NULL, end_time = ?, last_error = ?, lease_id = '', lease_time = NULL WHERE receiver = ? AND state = 1",
			micros(tx.now), receiverDeleted, row.Name)
		if err != nil {
			return err
		}
		_, err = tx.NewRaw("DELETE FROM receiver_health WHERE receiver = ?", row.Name).Exec(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, nil)
	return resp, nil
}

// SetRoute implements NotificationConfigService.
func (s *Service) SetRoute(ctx context.Context, req *notificationv1.SetRouteRequest) (*notificationv1.SetRouteResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	p := proto.CloneOf(req.GetRoute())
	p.Filter = strings.TrimSpace(p.GetFilter())
	etag := p.GetEtag()
	p.Etag, p.CreateTime, p.UpdateTime = "", nil, nil
	body, err := proto.Marshal(p)
	if err != nil {
		return nil, err
	}
	var set *notificationv1.Route
	err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		version, err := tx.configChanges(ctx)
		if err != nil {
			return err
		}
		e := errs.New(errs.InvalidArgument, "BAD_ROUTE", "the route cannot be kept")
		checkRoute(p, e)
		if err := tx.checkReceivers(ctx, e, "route.receivers", p.GetReceivers()); err != nil {
			return err
		}
		if len(e.Violations()) > 0 {
			return e
		}
		row := &routeRow{}
		there, err := scanOne(ctx, tx.NewSelect().Model(row).Where("r.name = ?", p.GetName()))
		if err != nil {
			return err
		}
		if err := matchEtag("route "+p.GetName(), row.Version, etag, req.GetCreateOnly()); err != nil {
			return err
		}
		now := micros(tx.now)
		if !there {
			if err := tx.checkRoom(ctx, "routes", "routes", maxRoutes); err != nil {
				return err
			}
			row.CreateTime = now
		} else {
			was, err := row.proto()
			if err != nil {
				return err
			}
			app.Before(ctx, was)
		}
		row.Name, row.Position, row.Receivers, row.Version, row.UpdateTime, row.Body = p.GetName(), p.GetPosition(), append([]string{}, p.GetReceivers()...), version, now, body
		if _, err := tx.NewInsert().Model(row).On("CONFLICT (name) DO UPDATE").
			Set("position = EXCLUDED.position").Set("receivers = EXCLUDED.receivers").Set("version = EXCLUDED.version").
			Set("update_time = EXCLUDED.update_time").Set("body = EXCLUDED.body").Exec(ctx); err != nil {
			return err
		}
		set, err = row.proto()
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, set)
	return &notificationv1.SetRouteResponse{Route: set}, nil
}

// ListRoutes implements NotificationConfigService.
func (s *Service) ListRoutes(ctx context.Context, _ *notificationv1.ListRoutesRequest) (*notificationv1.ListRoutesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	routes, err := allRoutes(ctx, db)
	if err != nil {
		return nil, err
	}
	return &notificationv1.ListRoutesResponse{Routes: routes}, nil
}

func allRoutes(ctx context.Context, db bun.IDB) (out []*notificationv1.Route, err error) {
	var rows []*routeRow
	if err := db.NewSelect().Model(&rows).Order("r.position", "r.name").Scan(ctx); err != nil {
		return nil, fault(err)
	}
	for _, row := range rows {
		r, err := row.proto()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// DeleteRoute implements NotificationConfigService.
func (s *Service) DeleteRoute(ctx context.Context, req *notificationv1.DeleteRouteRequest) (*notificationv1.DeleteRouteResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	resp := &notificationv1.DeleteRouteResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if _, err := tx.NewRaw("SET LOCAL statement_timeout = '5min'").Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.configChanges(ctx); err != nil {
			return err
		}
		row := &routeRow{}
		there, err := scanOne(ctx, tx.NewSelect().Model(row).Where("r.name = ?", req.GetName()))
		switch {
		case err != nil:
			return err
		case !there:
			return errs.New(errs.NotFound, "ROUTE_NOT_FOUND", "there is no route %s", req.GetName())
		}
		if err := matchEtag("route "+row.Name, row.Version, req.GetEtag(), false); err != nil {
			return err
		}
		was, err := row.proto()
		if err != nil {
			return err
		}
		app.Before(ctx, was)
		// Whoever adds events keeps the route until they are visible here.
		if _, err := tx.NewDelete().Model(row).WherePK().Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewRaw("SELECT FROM notice_groups WHERE route = ? ORDER BY key FOR UPDATE", row.Name).Exec(ctx); err != nil {
			return err
		}
		err = tx.NewRaw("SELECT count(*) FROM notices n JOIN notice_groups g ON g.id = n.group_id WHERE g.route = ? AND n.seq > g.told", row.Name).Scan(ctx, &resp.DroppedEvents)
		if err != nil {
			return err
		}
		_, err = tx.NewRaw("DELETE FROM notice_groups WHERE route = ?", row.Name).Exec(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, nil)
	return resp, nil
}

// SetContact implements NotificationConfigService.
func (s *Service) SetContact(ctx context.Context, req *notificationv1.SetContactRequest) (*notificationv1.SetContactResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	p := req.GetContact()
	var set *contactRow
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		version, err := tx.configChanges(ctx)
		if err != nil {
			return err
		}
		e := errs.New(errs.InvalidArgument, "BAD_CONTACT", "the contact cannot be kept")
		if contactKey(p.GetOwner()) == "" {
			e.Field("contact.owner", "is empty; say whose contact it is")
		}
		if len(p.GetReceivers()) == 0 {
			e.Field("contact.receivers", "is empty; say where the owner hears")
		}
		if err := tx.checkReceivers(ctx, e, "contact.receivers", p.GetReceivers()); err != nil {
			return err
		}
		if len(e.Violations()) > 0 {
			return e
		}
		set = &contactRow{}
		there, err := scanOne(ctx, tx.NewSelect().Model(set).Where("c.key = ?", contactKey(p.GetOwner())))
		if err != nil {
			return err
		}
		if err := matchEtag("contact of "+p.GetOwner(), set.Version, p.GetEtag(), req.GetCreateOnly()); err != nil {
			return err
		}
		if there {
			app.Before(ctx, set.proto())
		} else if err := tx.checkRoom(ctx, "contacts", "contacts", maxContacts); err != nil {
			return err
		}
		*set = contactRow{Key: contactKey(p.GetOwner()), Owner: strings.TrimSpace(p.GetOwner()), Receivers: p.GetReceivers(), Version: version, UpdateTime: micros(tx.now)}
		_, err = tx.NewInsert().Model(set).On("CONFLICT (key) DO UPDATE").
			Set("owner = EXCLUDED.owner").Set("receivers = EXCLUDED.receivers").Set("version = EXCLUDED.version").Set("update_time = EXCLUDED.update_time").Exec(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, set.proto())
	return &notificationv1.SetContactResponse{Contact: set.proto()}, nil
}

// ListContacts implements NotificationConfigService.
func (s *Service) ListContacts(ctx context.Context, req *notificationv1.ListContactsRequest) (*notificationv1.ListContactsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, contactOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"contacts"},
		func() *bun.SelectQuery { return db.NewSelect().Model((*contactRow)(nil)) })
	if err != nil {
		return nil, err
	}
	resp := &notificationv1.ListContactsResponse{NextPageToken: next}
	for _, c := range rows {
		resp.Contacts = append(resp.Contacts, c.proto())
	}
	return resp, nil
}

// DeleteContact implements NotificationConfigService.
func (s *Service) DeleteContact(ctx context.Context, req *notificationv1.DeleteContactRequest) (*notificationv1.DeleteContactResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if _, err := tx.configChanges(ctx); err != nil {
			return err
		}
		row := &contactRow{}
		there, err := scanOne(ctx, tx.NewSelect().Model(row).Where("c.key = ?", contactKey(req.GetOwner())))
		switch {
		case err != nil:
			return err
		case !there:
			return errs.New(errs.NotFound, "CONTACT_NOT_FOUND", "owner %s has no contact", req.GetOwner())
		}
		app.Before(ctx, row.proto())
		_, err = tx.NewDelete().Model(row).WherePK().Exec(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, nil)
	return &notificationv1.DeleteContactResponse{}, nil
}

// GetConfig implements NotificationQueueService. How deliveries go is left out:
// it would be another configuration with each of them.
func (s *Service) GetConfig(ctx context.Context, req *notificationv1.GetConfigRequest) (*notificationv1.GetConfigResponse, error) {
	var resp *notificationv1.GetConfigResponse
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) (err error) {
		resp = &notificationv1.GetConfigResponse{}
		// All of it as of one moment.
		if _, err := tx.NewRaw("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").Exec(ctx); err != nil {
			return err
		}
		if err := tx.NewRaw("SELECT version FROM notify_config").Scan(ctx, &resp.Version); err != nil {
			return err
		}
		if resp.Unchanged = resp.GetVersion() == req.GetVersion(); resp.GetUnchanged() {
			return nil
		}
		if resp.Routes, err = allRoutes(ctx, tx); err != nil {
			return err
		}
		if resp.Receivers, err = allReceivers(ctx, tx); err != nil {
			return err
		}
		var contacts []*contactRow
		if err := tx.NewSelect().Model(&contacts).Order("c.key").Scan(ctx); err != nil {
			return err
		}
		for _, c := range contacts {
			resp.Contacts = append(resp.Contacts, c.proto())
		}
		var silences []*silence
		if err := tx.NewSelect().Model(&silences).Where("x.expire_time > ?", tx.now).Order("x.expire_time DESC", "x.id DESC").Scan(ctx); err != nil {
			return err
		}
		for _, x := range silences {
			resp.Silences = append(resp.Silences, x.proto())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
