package config

import "strings"

// Markdown is the option table for the README: one table per set, each row with all the option's names.
func Markdown() string {
	sections := []struct {
		title string
		set   OptionSet
	}{
		{"The KEX API", KEXOptions},
		{"The relay", RelayOptions},
		{"Health and metrics", HTTPOptions},
		{"Logs", LogOptions},
		{"NATS in the process", EmbeddedOptions},
		{"NATS (the nats CLI's names)", ConnectionOptions},
	}
	var b strings.Builder
	for i, section := range sections {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString("**" + section.title + "**\n\n")
		b.WriteString("| environment | flag | key in the file | default | meaning |\n|---|---|---|---|---|\n")
		for _, o := range Options(section.set) {
			b.WriteString(markdownRow(o))
		}
	}
	return b.String()
}

func markdownRow(o Option) string {
	flag := "--" + o.Flag
	if o.Value != "bool" {
		flag += " " + o.Value
	}
	key := o.Key
	if key == keyConfig {
		key = ""
	}
	cells := []string{code(o.Env), code(flag), code(key), code(o.Default), o.Help}
	for i, cell := range cells {
		cells[i] = strings.ReplaceAll(cell, "|", `\|`)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// code is a text as code; an empty one stays empty.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
