# What every device measured, one panel for numbers over time and one for the latest of each.
let
  flux = tail: ''
    from(bucket: "devices")
      |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
      |> filter(fn: (r) => r.device =~ /^''${device:regex}$/)
    ${tail}
  '';
  panel = id: x: y: w: h: type: title: query: {
    inherit id type title;
    gridPos = {
      inherit
        x
        y
        w
        h
        ;
    };
    datasource = {
      type = "influxdb";
      uid = "tidegate";
    };
    targets = [
      {
        refId = "A";
        inherit query;
      }
    ];
  };
in
{
  uid = "tidegate-devices";
  title = "Devices";
  schemaVersion = 39;
  refresh = "30s";
  time = {
    from = "now-24h";
    to = "now";
  };
  templating.list = [
    {
      name = "device";
      type = "query";
      datasource = {
        type = "influxdb";
        uid = "tidegate";
      };
      query = ''
        import "influxdata/influxdb/schema"
        schema.tagValues(bucket: "devices", tag: "device")
      '';
      includeAll = true;
      multi = true;
      refresh = 2;
    }
  ];
  panels = [
    (panel 1 0 0 24 12 "timeseries" "Readings" (
      flux "  |> aggregateWindow(every: v.windowPeriod, fn: mean, createEmpty: false)"
    ))
    (panel 2 0 12 24 8 "stat" "Latest" (flux "  |> last()"))
  ];
}
