package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) deadLetters() (deadletterv1.DeadLetterServiceClient, error) {
	conn, err := c.dial("scheduler")
	if err != nil {
		return nil, err
	}
	return deadletterv1.NewDeadLetterServiceClient(conn), nil
}

func (c *cli) deadLettersCommand() *cobra.Command {
	g := group("deadletters", "Look at messages that were given up, and replay them",
		c.deadLettersList(),
		c.deadLetterCommand("show", "Show a dead letter with its payload", "  nightshift deadletters show 17",
			func(ctx context.Context, api deadletterv1.DeadLetterServiceClient, id uint64) error {
				r, err := api.GetDeadLetter(ctx, &deadletterv1.GetDeadLetterRequest{Id: id})
				if err != nil {
					return err
				}
				return printOne(c, r.GetDeadLetter(), func(d *deadletterv1.DeadLetter) object { return tree(d) }, deadLetterColumns,
					func() { c.deadLetterCard(r.GetDeadLetter()) })
			}),
		c.deadLetterCommand("replay", "Hand a dead letter to its consumer again", "  nightshift deadletters replay 17",
			func(ctx context.Context, api deadletterv1.DeadLetterServiceClient, id uint64) error {
				if _, err := api.ReplayDeadLetter(ctx, &deadletterv1.ReplayDeadLetterRequest{Id: id}); err != nil {
					return err
				}
				c.say("replayed dead letter %d", id)
				return nil
			}),
		c.deadLetterCommand("delete", "Delete a dead letter for good", "  nightshift deadletters delete 17",
			func(ctx context.Context, api deadletterv1.DeadLetterServiceClient, id uint64) error {
				if _, err := api.DeleteDeadLetter(ctx, &deadletterv1.DeleteDeadLetterRequest{Id: id}); err != nil {
					return err
				}
				c.say("deleted dead letter %d", id)
				return nil
			}),
	)
	return g
}

var deadLetterColumns = []column[*deadletterv1.DeadLetter]{
	{name: "id", head: "ID", number: true, text: func(d *deadletterv1.DeadLetter) string { return strconv.FormatUint(d.GetId(), 10) }},
	{name: "time", head: "Given up (UTC)", text: func(d *deadletterv1.DeadLetter) string { return when(d.GetTime()) },
		csv: func(d *deadletterv1.DeadLetter) string { return stamp(d.GetTime()) }},
	{name: "consumer", head: "Consumer", text: (*deadletterv1.DeadLetter).GetConsumer},
	{name: "attempts", head: "Tried", number: true, text: func(d *deadletterv1.DeadLetter) string { return strconv.Itoa(int(d.GetAttempts())) }},
	{name: "reason", head: "Reason", flex: 20, text: (*deadletterv1.DeadLetter).GetReason},
	{name: "subject", head: "Subject", flex: 20, spare: 1, text: (*deadletterv1.DeadLetter).GetSubject},
	{name: "message_id", text: (*deadletterv1.DeadLetter).GetMessageId},
}

func (c *cli) deadLetterCard(d *deadletterv1.DeadLetter) {
	payload := d.GetPayloadJson()
	if payload == "" {
		payload = many(int64(len(d.GetPayload())), "byte", "bytes") + " that cannot be decoded; -o json has them"
	}
	c.card("Dead letter "+strconv.FormatUint(d.GetId(), 10),
		fact{"reason", d.GetReason(), yellow},
		fact{name: "given up", text: when(d.GetTime())},
		fact{name: "tried", text: many(int64(d.GetAttempts()), "time", "times")},
		fact{name: "consumer", text: d.GetConsumer()},
		fact{name: "subject", text: d.GetSubject()},
		fact{name: "message id", text: d.GetMessageId()},
		fact{name: "payload", text: payload},
	)
}

func (c *cli) deadLettersList() *cobra.Command {
	var (
		consumer string
		l        limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List dead letters, oldest first", Args: cobra.NoArgs,
		Example: "  nightshift deadletters list\n  nightshift deadletters list --consumer persistence-FindingsObserved -o jsonl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.deadLetters()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, func(d *deadletterv1.DeadLetter) object { return tree(d) }, deadLetterColumns),
				func(size int32, token string) ([]*deadletterv1.DeadLetter, string, error) {
					r, err := api.ListDeadLetters(cmd.Context(), &deadletterv1.ListDeadLettersRequest{PageSize: size, PageToken: token, Consumer: consumer})
					return r.GetDeadLetters(), r.GetNextPageToken(), err
				})
			if err == nil && n == 0 {
				c.say("no dead letters: every message was dealt with")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&consumer, "consumer", "", "only those of this consumer, such as persistence-FindingsObserved")
	l.add(cmd)
	return cmd
}

// deadLetterCommand is a command about one dead letter.
func (c *cli) deadLetterCommand(use, short, example string, run func(ctx context.Context, api deadletterv1.DeadLetterServiceClient, id uint64) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: exactly(1, "the number of a dead letter"), Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || id == 0 {
				return usage("%q is not the number of a dead letter", args[0])
			}
			api, err := c.deadLetters()
			if err != nil {
				return err
			}
			return withHint(run(cmd.Context(), api, id), errs.NotFound, "\"nightshift deadletters list\" shows those there are.")
		},
	}
}
